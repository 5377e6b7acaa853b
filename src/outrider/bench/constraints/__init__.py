"""Measures engines of grammars on JSON schemas whose valid and invalid instances are known."""
