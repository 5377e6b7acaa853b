"""Any other model of `transformers` as a `LanguageModel`."""
