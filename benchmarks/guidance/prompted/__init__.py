"""Guidance by another prompt: tasks whose answers can be checked, and what is measured."""
