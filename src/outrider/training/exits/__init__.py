"""Draft models with early exits (S2D): all exits are trained together; thresholds by target."""
