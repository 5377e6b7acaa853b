"""Runners of masked denoisers, the rows that they keep, the filter of their predictions, and a
denoiser whose probabilities are known."""
