"""What a request asks of drafting, and what the models give: their rule is that of all requests."""

from outrider.acceptance import Fuzzy, Judge, TopBeta, Typical
from outrider.core.types import SAME_TEXT, Exactness
from outrider.engine.generator import Generator
from outrider.protocols import AcceptanceRule
from outrider.server.errors import invalid, unsupported
from outrider.server.schema.sampling import SpeculationOptions

_NONE, _EXACT = "none", "exact"


def may_draft(asked: SpeculationOptions | None, generator: Generator) -> bool:
    """Whether the text of a request may be written with drafts.

    Mode `exact` asks for the text of the target. If the models are loaded in a mode that does not
    give it, it is written without drafts; the same holds for `max_changed` 0.

    Raises:
        ApiError: the mode is neither `none` nor `exact` nor that of the server, or fewer tokens may
            be changed than the server allows.
    """
    if asked is None:
        return True
    rule, own = generator.strategy.rule, generator.mode
    if asked.mode not in (None, _NONE, _EXACT, own):
        known = ", ".join(dict.fromkeys((_EXACT, _NONE, own)))
        raise invalid(f"speculation.mode is {asked.mode!r:.40}. Give {known}", "speculation.mode")
    if asked.mode == _NONE or (asked.mode == _EXACT and rule.exactness not in SAME_TEXT):
        return False
    if asked.max_changed is None or rule.exactness is not Exactness.LOSSY:
        return True
    if asked.max_changed == 0:
        return False
    most = _most_changed(rule)
    if most is None or most > asked.max_changed:
        allowed = "any number of tokens" if most is None else f"a share of {most:g}"
        raise unsupported(
            "speculation.max_changed",
            f"the server may change {allowed}, which is set for all requests. Give "
            "speculation.mode 'exact' or 'none', or start the server with --max-changed",
        )
    return True


def _most_changed(rule: AcceptanceRule) -> float | None:
    """Return the largest share of tokens that a rule may change; None: there is no limit."""
    return rule.max_changed if isinstance(rule, Fuzzy | Judge | TopBeta | Typical) else None
