"""Training of masked draft models of `deer`, in two stages on answers of the target."""
