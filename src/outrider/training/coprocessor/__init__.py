"""Training of a coprocessor: soft tokens and an adapter that write latents into a cache."""
