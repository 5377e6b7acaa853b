"""A model that reads only the parts of a long input that matter now."""
