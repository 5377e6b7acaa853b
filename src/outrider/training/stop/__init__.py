"""Trains the stop head of SpecDec++."""
