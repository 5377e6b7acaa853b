"""Data structures of model-free drafters: n-grams, automata, tries, tables. They know no
requests."""
