"""Terminal output: text, tables, progress, errors."""
