"""What a terminal shows: text, tables, progress, errors."""
