"""Functions that a model may call: how they are shown to it, and how calls are found in text."""
