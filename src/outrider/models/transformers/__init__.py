"""Runs other models of `transformers` as a `LanguageModel`."""
