"""Families of captioners, trained on drawn scenes."""
