"""Recipes that make drafters, families and adapters."""
