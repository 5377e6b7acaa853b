"""Commit rules, one file each: which positions a round commits."""
