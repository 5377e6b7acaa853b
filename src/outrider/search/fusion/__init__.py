"""Strategies that fuse the target with a language model of another tokenizer."""
