"""Chimera: heads over a trigram encoder and one layer that reads the target's final states."""
