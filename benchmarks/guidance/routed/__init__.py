"""Other places at which the target of a pair writes."""
