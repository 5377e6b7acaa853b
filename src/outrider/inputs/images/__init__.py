"""Image files, and images in messages."""
