"""Images as sequences of patches: an autoregressive model of real vectors with a diffusion head."""
