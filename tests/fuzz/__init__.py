"""Hostile and broken inputs: cases by class, and a sandbox that runs the command line on them."""
