"""Strategies that write one text, and choose some of its tokens or passages with more care."""
