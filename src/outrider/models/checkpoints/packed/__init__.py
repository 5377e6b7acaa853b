"""Quantised checkpoints of other makers: GPTQ, AWQ, compressed-tensors and bitsandbytes.

They store a matrix as several tensors. `reading.py` replaces these by one tensor that reads itself
(`checkpoints/tensors.py`); there is one file for each format.
"""
