"""Tuning of a target for Lexical Unit Decoding: an adapter and a pad."""
