"""Trains draft heads: answers of the target with its hidden states, then unrolled training."""
