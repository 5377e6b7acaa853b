"""Benchmarks that write functions, of HumanEval and MBPP."""
