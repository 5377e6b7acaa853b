"""Renders chat templates under limits."""
