"""Labels of texts and states: a memory that is read with the hidden states of a model."""
