"""Files of draft heads: formats of other projects, and our own."""
