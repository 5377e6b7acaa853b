"""Policies that tell two kinds of heads apart, by gates that were trained for them."""
