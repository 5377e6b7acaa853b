"""Vision encoders for runners of text stacks."""
