"""What free drafters remember: n-grams, automata, tries, tables. No model, no requests."""
