"""Questions with a number as their answer, and what votes of samples answer."""
