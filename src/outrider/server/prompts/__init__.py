"""From the messages of a request to the prompt that the engine reads."""
