"""What the training of single kinds of heads has of its own: starts, fits and losses."""
