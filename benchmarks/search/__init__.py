"""Search strategies beside plain decoding, at equal budgets."""
