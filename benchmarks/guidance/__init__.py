"""Guidance on a real model, beside the model alone."""
