"""A large GGUF file: written, loaded and run beside llama.cpp."""
