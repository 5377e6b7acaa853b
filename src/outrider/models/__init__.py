"""Models and their runners: they read tokens and return logits."""
