"""Long inputs, and which parts of each are needed when."""
