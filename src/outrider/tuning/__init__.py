"""`outrider tune`: measured answers to whether drafting pays for a model, a machine and prompts."""
