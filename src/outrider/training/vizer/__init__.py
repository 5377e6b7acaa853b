"""ViZer: a captioner that improves from images without labels."""
