"""How the chunks of a long input are scored."""
