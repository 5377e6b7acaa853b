"""What a checkpoint's files hold: weights, tokenizer, chat template, defaults."""
