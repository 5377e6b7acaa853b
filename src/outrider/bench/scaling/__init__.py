"""Cost-scaled models: larger cost, same outputs, for measuring speed."""
