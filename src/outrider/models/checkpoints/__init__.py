"""Content of checkpoint folders: weights, tokenizer, chat template, defaults."""
