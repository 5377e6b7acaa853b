"""Draft models that need more than the other tiers: a vocabulary of their own."""
