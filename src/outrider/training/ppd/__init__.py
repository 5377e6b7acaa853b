"""Training of prompt tokens of `ppd` through a frozen target."""
