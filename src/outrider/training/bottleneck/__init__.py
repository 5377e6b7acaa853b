"""Trains memories of labels, one task after the other, on frozen hidden states."""
