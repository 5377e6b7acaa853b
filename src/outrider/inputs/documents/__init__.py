"""Files as text, and text as chunks."""
