"""Recipes that train drafters, families and adapters."""
