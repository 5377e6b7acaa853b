"""Serving: requests that arrive at any time share the rounds of one engine thread."""
