"""GGUF files: one file with settings, tokenizer and weights."""
