"""Search strategies on the installed model, beside simpler ones at an equal cost."""
