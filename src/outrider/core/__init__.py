"""Records, errors and small helpers that all packages use."""
