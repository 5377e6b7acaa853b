"""How much to draft with several requests at once."""
