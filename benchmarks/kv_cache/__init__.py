"""What heads, tokens and precisions of a KV cache cost when they are left out."""
