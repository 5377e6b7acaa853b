"""Trains a model of patches of images, and a smaller draft model of it."""
