"""Drafters that record which tokens followed which."""
