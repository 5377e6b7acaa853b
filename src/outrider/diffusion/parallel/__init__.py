"""Tasks with dependent tokens, as in ParallelBench: items, programs that score, closed forms."""
