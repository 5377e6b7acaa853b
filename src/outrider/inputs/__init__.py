"""Files, images and messages, made into prompts."""
