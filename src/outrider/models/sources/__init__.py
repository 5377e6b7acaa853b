"""Where models are found by name: families that ship, known models, folders, and the hub."""
