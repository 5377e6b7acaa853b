"""Trains the unmasking filter of Learn2PD."""
