"""What a tuning measures, and what misleads it."""
