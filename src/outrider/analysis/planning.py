"""Which draft model to train, and how much it drafts: a plan from fits of tokens a round.

The recipe of Scylla (arXiv 2505.07858): for each batch, the number
of training tokens, of layers and of drafted tokens that maximise
`tau(L, D, w) / (T_draft(L, w, B) + T_verify(w, B))`, with measured seconds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from outrider.analysis.measurements import Measurements
from outrider.analysis.scaling import LogFit
from outrider.core.errors import OptionError

_GOOD_FIT = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What to do at one batch.

    Attributes:
        batch: requests that share a forward.
        width: drafted tokens of a round; 0: nothing is drafted.
        layers: layers of the draft model; None where nothing is drafted.
        tokens: its training tokens; None where nothing is drafted.
        tau: expected tokens a round of each request, the next token included.
        seconds: of a round.
        undrafted: tokens a second of all requests without drafts.
    """

    batch: int
    width: int
    layers: int | None
    tokens: float | None
    tau: float
    seconds: float
    undrafted: float

    @property
    def speed(self) -> float:
        """Tokens a second of all requests together."""
        return self.batch * self.tau / self.seconds

    @property
    def speedup(self) -> float:
        """Speed relative to that without drafts."""
        return self.speed / self.undrafted


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The fits, and a choice for each batch, in ascending order.

    Attributes:
        by_tokens: tokens a round by training tokens.
        by_layers: tokens a round by layers.
        choices: the fastest choice for each measured batch.
        warnings: what makes the plan doubtful, one sentence each.
    """

    by_tokens: LogFit
    by_layers: LogFit
    choices: tuple[Choice, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Tokens:
    """Expected tokens a round of a draft model.

    The points by layers belong to draft models that were trained on the largest measured number of
    tokens, and both effects are added: `tau(L) + b1 ln(D / D_largest)`.

    Attributes:
        by_tokens: the fit by training tokens.
        by_layers: the fit by layers.
        widths: tokens a round by drafted tokens of a round, of one draft model; the largest number
            of tokens a round is that of the fits. Empty: the fits hold for all widths above 0.
    """

    by_tokens: LogFit
    by_layers: LogFit
    widths: Mapping[int, float]

    def tau(self, layers: int, tokens: float, width: int) -> float:
        """Return the expected tokens a round. Raises `OptionError` too far from the fits."""
        if not width:
            return 1.0
        reached = self.by_tokens.tau(tokens) - self.by_tokens.tau(self.by_tokens.largest)
        best = max(self.by_layers.tau(layers) + reached, 1.0)
        return 1.0 + (best - 1.0) * self._share(width)

    def _share(self, width: int) -> float:
        """Return the share of the largest gain that so many drafted tokens bring, from 0 to 1."""
        if not self.widths:
            return 1.0
        largest = max(self.widths.values()) - 1.0
        points = sorted({0: 1.0, **self.widths}.items())
        if width >= points[-1][0]:
            value = points[-1][1]
        else:
            (low, start), (high, end) = next(
                (a, b) for a, b in pairwise(points) if a[0] <= width < b[0]
            )
            value = start + (end - start) * (width - low) / (high - low)
        return (value - 1.0) / largest if largest > 0 else 0.0


def plan(
    measured: Measurements,
    *,
    tokens: Sequence[float] = (),
    layers: Sequence[int] = (),
) -> Plan:
    """Choose training tokens, layers and width for each measured batch.

    Args:
        measured: at least four points of `data` and of `depth`, and seconds; `verify` has width 0
            and a larger one for each batch.
        tokens: numbers of training tokens that are possible; empty: the measured ones.
        layers: numbers of layers that are possible; empty: the measured ones. Only those with
            seconds in `draft` can be chosen.

    Raises:
        OptionError: too few measurements, or a number too far from them.
    """
    fits = Tokens(
        LogFit.fitted("training tokens", measured.data),
        LogFit.fitted("layers", measured.depth),
        measured.width,
    )
    able = sorted(set(layers or [int(x) for x, _ in measured.depth]))
    sizes = sorted(set(tokens or [x for x, _ in measured.data]))
    for fit, asked in ((fits.by_tokens, sizes), (fits.by_layers, able)):
        for x in asked:
            fit.tau(x)  # refuses what is too far away, also where nothing is drafted
    batches = sorted({batch for _, batch in measured.verify})
    if not batches:
        raise OptionError(
            "there are no seconds of the target", hint='Give records of kind "verify"'
        )
    choices = tuple(_best(measured, fits, batch, able, sizes) for batch in batches)
    return Plan(
        by_tokens=fits.by_tokens,
        by_layers=fits.by_layers,
        choices=choices,
        warnings=tuple(_doubts(fits, choices)),
    )


def _best(
    measured: Measurements,
    fits: Tokens,
    batch: int,
    layers: Sequence[int],
    sizes: Sequence[float],
) -> Choice:
    """Return the fastest choice for one batch; the cheapest draft model among equal ones."""
    plain = measured.verify.get((0, batch))
    if plain is None:
        raise OptionError(
            f"the seconds of undrafted decoding (width 0) at batch {batch} are missing",
            hint=f'Add {{"kind": "verify", "width": 0, "batch": {batch}, "seconds": ...}}',
        )
    best = Choice(
        batch=batch,
        width=0,
        layers=None,
        tokens=None,
        tau=1.0,
        seconds=plain,
        undrafted=batch / plain,
    )
    drafted = 0
    for width in sorted(width for width, of in measured.verify if of == batch and width):
        for count in layers:
            seconds = draft_seconds(measured, count, width, batch)
            if seconds is None:
                continue
            for size in sizes:
                drafted += 1
                other = Choice(
                    batch=batch,
                    width=width,
                    layers=count,
                    tokens=size,
                    tau=fits.tau(count, size, width),
                    seconds=seconds + measured.verify[width, batch],
                    undrafted=batch / plain,
                )
                if other.speed > best.speed:
                    best = other
    if not drafted:
        raise OptionError(
            f"no draft can be priced at batch {batch}",
            hint='Give records of kind "verify" with a width above 0, and of kind "draft" for the '
            "same layers",
        )
    return best


def draft_seconds(measured: Measurements, layers: int, width: int, batch: int) -> float | None:
    """Return the seconds of one draft; those of exactly this width and batch come first."""
    for key in (
        (layers, width, batch),
        (layers, width, None),
        (layers, None, batch),
        (layers, None, None),
    ):
        if key in measured.draft:
            return measured.draft[key]
    return None


def _doubts(fits: Tokens, choices: Sequence[Choice]) -> list[str]:
    found: list[str] = []
    for fit in (fits.by_tokens, fits.by_layers):
        if fit.slope <= 0:
            found.append(f"more {fit.axis} do not help: b is {fit.slope:.3g}")
        if fit.r_squared < _GOOD_FIT:
            found.append(f"the fit by {fit.axis} explains {fit.r_squared:.0%} of the variance only")
    for small, large in pairwise(choices):
        if large.width > small.width:
            found.append(
                f"width {large.width} at batch {large.batch} is above width {small.width} at batch "
                f"{small.batch}: the measured seconds contradict each other, or rows cost less "
                "in larger batches"
            )
    return found
