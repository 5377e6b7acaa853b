"""Benchmarks on real models."""
