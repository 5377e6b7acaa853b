"""Follows `GenerationConfig` of `transformers`: its fields as options of Outrider."""
