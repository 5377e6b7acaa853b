"""Training of a small masked denoiser from the weights of an autoregressive model."""
