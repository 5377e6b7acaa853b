"""What a user gives, made into a `Prompt`."""
