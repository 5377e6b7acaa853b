"""What policies of the cache cost and gain, on real models and on the tiny family."""
