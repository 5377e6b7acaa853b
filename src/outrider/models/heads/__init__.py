"""Draft heads: one small layer that reads hidden states of its target and predicts its tokens."""
