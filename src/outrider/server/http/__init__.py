"""What every request passes: identifiers, keys, limits of bodies, and the two kinds of answers."""
