"""Captions measured: how good they are (`score`), and how fast they come (`speed`).

Run them from the root of the repository as modules: `python -m benchmarks.captions.speed --help`.
"""
