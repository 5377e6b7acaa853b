"""Training of gates: which KV heads of a frozen model need the whole text."""
