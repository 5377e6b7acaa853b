"""Tasks with dependent tokens (ParallelBench), written by a denoiser under several methods."""
