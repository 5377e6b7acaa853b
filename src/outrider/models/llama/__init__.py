"""The readable decoder for Llama-shaped checkpoints."""
