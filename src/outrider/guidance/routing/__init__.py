"""Guidance that reads one of two models for each token, and hands the text over between them."""
