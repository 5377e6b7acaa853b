"""Folders with safetensors files."""
