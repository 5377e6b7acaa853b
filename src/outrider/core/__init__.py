"""Records and errors that every package uses."""
