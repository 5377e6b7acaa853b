"""Requests in, results out: loading, generators, streams."""
