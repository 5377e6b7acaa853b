"""What a tuning compares: drafters with their lengths, as strategies of `outrider bench`."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from outrider.bench.models import OpenModels
from outrider.bench.strategies import BASELINE, Named, parse_strategies
from outrider.core.errors import OutriderError
from outrider.drafters.method import DrafterMethod
from outrider.strategy.catalogue import drafter_records

AUTO = "auto"
LENGTHS = (1, 2, 3, 4, 6, 8, 12, 16)
"""Lengths of chains."""
_LENGTHS_OF_MODELS = LENGTHS[:6]
NODES = (4, 8, 16, 32, 64)
"""Sizes of trees, whose depth is at most `_DEPTH`."""
_DEPTH = 8
_GROWTHS = ("eagle2", "dyspec")
_COPIES_FIRST = ("fallback(lookup,model)", "fallback(suffix,model)")
_QUALIFIED = ("k=2,q=4", "k=3,q=6", "k=4,q=8")
_NAMED = "It can be named with --arms"


class Screening(StrEnum):
    """How an arm is compared before the race."""

    EXACT = "exact"
    """Replay makes the same drafts."""
    CLOSE = "close"
    """The drafter learns from rows off the text, which are not recorded: replay is close."""
    NONE = "none"
    """Replay is impossible, or the lengths depend on clocks: the arm goes to the race."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One configuration.

    Attributes:
        named: name and options, as in `outrider bench`.
        family: the drafter; lengths of one drafter are one family.
        screening: how it is compared before the race.
        models: number of models besides the target.
        adaptive: whether its lengths follow measured acceptance.
    """

    named: Named
    family: str
    screening: Screening = Screening.EXACT
    models: int = 0
    adaptive: bool = False

    @property
    def name(self) -> str:
        """Its name in reports."""
        return self.named.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """A drafter that is not compared, with the reason and what would change it."""

    name: str
    reason: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}" + (f". {self.hint}" if self.hint else "")


@dataclass(slots=True)
class Space:
    """All arms, and drafters that are left out."""

    arms: list[Arm] = field(default_factory=list[Arm])
    skipped: list[Skipped] = field(default_factory=list[Skipped])

    def arm(self, name: str) -> Arm:
        """Return an arm by name."""
        return next(arm for arm in self.arms if arm.name == name)


def plain_arm() -> Arm:
    """Return undrafted decoding."""
    return Arm(named=named_arm(BASELINE), family=BASELINE, screening=Screening.NONE)


def space_of(opened: OpenModels, more: Sequence[str] = ()) -> Space:
    """Return the arms that these models can run.

    Args:
        opened: the models.
        more: strategies that the user names; they are raced in any case.

    Raises:
        OptionError: a strategy of `more` is unknown or cannot run.
    """
    found = Space()
    for record in drafter_records():
        if record.name in (AUTO, BASELINE) or record.inner:
            continue
        if (reason := _missing(record, opened)) is not None:
            found.skipped.append(reason)
        elif record.layered or record.name in ("lookahead", "skip"):
            why = "it reads layers or rows of the target that are not recorded"
            found.skipped.append(Skipped(name=record.name, reason=why, hint=_NAMED))
        else:
            found.arms += _arms(record)
    found.arms += _of_several(opened)
    found.arms.append(
        Arm(named=named_arm(AUTO), family=AUTO, screening=Screening.NONE, adaptive=True)
    )
    for text in more:
        named = named_arm(text)
        opened.build(named)  # raises where it cannot run
        known = [arm for arm in found.arms if arm.name != named.name]
        family = str(named.options.get("drafter", text))
        found.arms = [*known, Arm(named=named, family=family, screening=Screening.NONE)]
    return found


def adaptive_of(arm: Arm) -> Arm:
    """Return the arm of the same drafter whose lengths follow measured acceptance."""
    kept = {n: v for n, v in arm.named.options.items() if not n.startswith("num_")}
    growth = kept.get("growth")
    base = arm.named.name.partition(":")[0]
    named = Named(name=base if growth is None else f"{base}:growth={growth}", options=kept)
    return Arm(
        named=named,
        family=arm.family,
        screening=Screening.NONE,
        models=arm.models,
        adaptive=True,
    )


def _missing(record: DrafterMethod, opened: OpenModels) -> Skipped | None:
    """Return why a drafter cannot run here; None if it can."""
    if record.needs_store:
        return Skipped(
            name=record.name,
            reason="it retrieves from a datastore",
            hint="Build one, and compare it with `outrider bench speed`",
        )
    if record.models > 1:
        return None if "qualifier" in opened.models else _no_model(record, "qualifier")
    if record.models == 1 and not record.head and "draft" not in opened.models:
        return _no_model(record, "draft model")
    recipe = "draft" if record.name == "model" else record.name
    try:
        opened.build(named_arm(f"{recipe}:k=2"))
    except OutriderError as error:
        problem = error.problem.partition(": ")[2] or error.problem
        return Skipped(name=record.name, reason=problem, hint=error.hint)
    return None


def _no_model(record: DrafterMethod, what: str) -> Skipped:
    option = what.partition(" ")[0]
    return Skipped(name=record.name, reason=f"there is no {what}", hint=f"Give --{option}")


def _arms(record: DrafterMethod) -> list[Arm]:
    """Return the arms of one drafter, in all of its sizes."""
    models = record.models
    if record.head:
        texts = [record.name, *(f"{record.name}:k={k}" for k in (2, 3, 4))]
        return [
            Arm(
                named=named_arm(text),
                family=record.name,
                screening=Screening.NONE,
                models=1,
                adaptive=":" not in text,
            )
            for text in texts
        ]
    recipe = "draft" if record.name == "model" else record.name
    if models > 1:
        texts = [f"{recipe}:{sizes}" for sizes in _QUALIFIED]
    elif record.name == "tree":
        texts = [
            f"draft:growth={growth},k={min(_DEPTH, n)},n={n}"
            for growth in _GROWTHS
            for n in NODES[:3]
        ]
    elif record.tree:
        texts = [f"{recipe}:k={min(_DEPTH, n)},n={n}" for n in NODES]
    else:
        texts = [f"{recipe}:k={k}" for k in (_LENGTHS_OF_MODELS if models else LENGTHS)]
    close = record.name in ("recycling", "stand")
    return [
        Arm(
            named=named_arm(text),
            family=record.name,
            screening=Screening.CLOSE if close else Screening.EXACT,
            models=models,
        )
        for text in texts
    ]


def _of_several(opened: OpenModels) -> list[Arm]:
    """Return arms that copy first, and ask the draft model where there is nothing to copy."""
    if "draft" not in opened.models:
        return []
    return [
        Arm(named=named_arm(f"{name}:k={k}"), family=name, models=1)
        for name in _COPIES_FIRST
        for k in (2, 4, 8)
    ]


def named_arm(text: str) -> Named:
    """Parse the strategy of one arm (the parser adds the baseline). Raises `OptionError`."""
    found = parse_strategies(text)
    return found[0] if text == BASELINE else found[-1]
