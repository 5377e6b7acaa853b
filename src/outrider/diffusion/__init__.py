"""Diffusion decoding: texts whose positions are written in any order, several in one forward."""
