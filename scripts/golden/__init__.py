"""Golden outputs: what fixed runs print and return, before and after a change."""
