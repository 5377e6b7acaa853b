"""Models that wrap another model."""
