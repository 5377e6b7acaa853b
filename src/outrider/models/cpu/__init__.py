"""The compiled runner for the CPU."""
