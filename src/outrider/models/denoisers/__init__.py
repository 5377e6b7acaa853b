"""Runners of masked denoisers, and a denoiser whose probabilities are known."""
