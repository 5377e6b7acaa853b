"""The decoder for Llama-shaped checkpoints, written to be readable."""
