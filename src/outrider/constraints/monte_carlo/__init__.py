"""Samples of a model's distribution over whole allowed texts: AWRS and sequential Monte Carlo."""
