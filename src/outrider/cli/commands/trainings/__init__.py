"""Commands of `outrider train`."""
