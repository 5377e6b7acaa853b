"""Which parts of a long input a model reads."""
