"""Drafters that remember which tokens followed which."""
