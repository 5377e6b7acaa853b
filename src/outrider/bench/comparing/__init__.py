"""Compares the raw results of two runs of `outrider bench`, prompt by prompt."""
