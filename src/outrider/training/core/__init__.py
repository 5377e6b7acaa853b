"""What every kind of training shares: configuration, corpus, models, loop, saved state."""
