"""Measurements on real models."""
