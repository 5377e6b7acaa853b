"""What a run found: summary, plots, one HTML page."""
