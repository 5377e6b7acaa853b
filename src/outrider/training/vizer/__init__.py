"""ViZer: improves a captioner with images that have no labels."""
