"""Trains the probe of `Judge` without labels written by people (AutoJudge)."""
