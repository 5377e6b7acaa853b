"""Image encoders in front of the runner of a text stack."""
