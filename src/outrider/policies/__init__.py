"""How long and how wide to draft."""

from outrider.policies.fixed import FixedLength

__all__ = ["FixedLength"]
