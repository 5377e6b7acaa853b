"""Benchmarks: workloads, strategies and rivals interleaved in one run, and the report."""
