"""Processes requests: loads models, runs generators, streams and returns results."""
