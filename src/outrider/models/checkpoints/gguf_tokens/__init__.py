"""Tokenizers built from the settings of a GGUF file."""
