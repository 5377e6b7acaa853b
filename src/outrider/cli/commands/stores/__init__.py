"""The commands that build stores: of texts to copy, and of verified answers."""
