"""Commands of `outrider bench`."""
