"""Masked denoisers as targets of `load`."""
