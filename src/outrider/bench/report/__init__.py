"""Reports of a run: summary, plots, one HTML page."""
