"""Drafters that run a draft model: chains and trees."""
