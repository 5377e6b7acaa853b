"""Data structures of model-free drafters: n-grams, automata, tries, tables. They do not
depend on requests."""
