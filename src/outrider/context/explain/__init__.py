"""What was read of a long input, when, and why: as a picture, a page and figures."""
