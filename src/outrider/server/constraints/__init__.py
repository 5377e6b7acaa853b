"""Grammars that requests give: their fields, and what is done before they reach the engine."""
