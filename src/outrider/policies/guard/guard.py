"""The guard of one strategy: a watch for each size of batch, and the errors of the drafter.

It judges by the clock what `ExpectedGain` decides by expectation: all that drafting costs is in the
seconds of a round. It decides only whether a round may draft, which never changes a text under the
rule `Match`.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from outrider.core.checks import shown
from outrider.core.errors import OptionError, in_short
from outrider.policies.guard.allowance import Allowance
from outrider.policies.guard.report import Cause, GuardReport, State, Switch
from outrider.policies.guard.watch import Watch

log = logging.getLogger("outrider.guard")

Mode = Literal["off", "warn", "on"]
MODES: tuple[Mode, ...] = get_args(Mode)

MOST_ERRORS = 3
"""Errors of a drafter after which it is not called any more."""


def check_mode(mode: str) -> Mode:
    """Return the mode of this name. Raises `OptionError` for any other."""
    for known in MODES:
        if mode == known:
            return known
    raise OptionError(f"guard is {shown(mode)}", hint=f"Give {', '.join(MODES)}")


@dataclass(slots=True, kw_only=True)
class Guard:
    """Decides for each round whether it may draft. All requests of a generator or server share one.

    Attributes:
        mode: `on` switches drafting off where it loses, `warn` only says so.
        judges: whether budgets may change: the policy is adaptive, the rule is `Match`, and nothing
            learns from the drafts. Else only errors of the drafter are handled.
        switches: number of switches, by state and cause.
        errors: errors of the drafter so far.
    """

    mode: Mode = "on"
    judges: bool = True
    switches: dict[tuple[str, str], int] = field(default_factory=dict[tuple[str, str], int])
    errors: int = 0
    _failed: str = ""
    _failed_at: int = 0
    _allowance: Allowance = field(default_factory=Allowance)
    _watches: dict[int, Watch] = field(default_factory=dict[int, Watch])
    _rounds: int = 0
    _batch: int = 1

    def drafts(
        self, batch: int, kind: Callable[[], str], measured: bool = True, context: float = 0.0
    ) -> bool:
        """Whether the next round may draft.

        Args:
            batch: requests in it, at least 1.
            kind: returns what kind of requests they are, such as greedy ones or those with images;
                called while drafting is off.
            measured: whether `note` is called after the round. Rounds that are not measured are
                never undrafted for a comparison.
            context: tokens of a request, in the mean.
        """
        self._batch = batch
        if self._failed:
            return False
        if not self.judges:
            return True
        watch = self._watch(batch)
        return watch.drafts(kind, self._rounds, context) if measured else watch.drafts_unmeasured

    def note(self, batch: int, asked: bool, seconds: float, tokens: float) -> None:
        """Add a round that read no prompts, and in which no grammar gave tokens.

        Args:
            batch: requests in it.
            asked: whether the policy gave any of them a budget for drafts.
            seconds: of the whole round, without reading of prompts.
            tokens: that it wrote, of all requests.
        """
        self._rounds += 1
        if not self.judges or self._failed:
            return
        switch = self._watch(batch).note(batch, asked, seconds, tokens)
        if switch is not None:
            self._tell(switch, f"batches of {sizes(batch)}")

    def failed(self, error: Exception) -> None:
        """Count an error of the drafter. It is logged with its traceback once; the drafter is not
        called any more after `MOST_ERRORS` of them."""
        self.errors += 1
        if self.errors == 1:
            log.error("the drafter failed; its requests go on without drafts", exc_info=error)
        if self.errors == MOST_ERRORS:
            self._failed = f"the drafter raised {self.errors} errors: {in_short(error)}"
            self._failed_at = self._rounds
            self._tell(Switch(to=State.FAILED, cause=Cause.ERRORS, reason=self._failed), "all")

    @property
    def given_up(self) -> str:
        """Why the drafter is not called any more; empty while it is."""
        return self._failed

    @property
    def report(self) -> GuardReport:
        """The state for batches of the newest size."""
        if self._failed:
            since = self._rounds - self._failed_at
            return GuardReport(state=State.FAILED, since=since, x=None, reason=self._failed)
        watch = self._watch(self._batch)
        return GuardReport(
            state=watch.state, since=watch.rounds - watch.switched, x=watch.x, reason=watch.reason
        )

    @property
    def states(self) -> Mapping[str, str]:
        """The state by sizes of batches, such as `4-7`; of all sizes that were seen."""
        failed = State.FAILED if self._failed else None
        return {
            sizes(batch): failed or watch.state for batch, watch in sorted(self._watches.items())
        }

    def _watch(self, batch: int) -> Watch:
        first = bucket(batch)
        if (found := self._watches.get(first)) is None:
            found = Watch(allowance=self._allowance, acts=self.mode == "on")
            self._watches[first] = found
        return found

    def _tell(self, switch: Switch, where: str) -> None:
        key = (str(switch.to), str(switch.cause))
        self.switches[key] = self.switches.get(key, 0) + 1
        level = logging.WARNING if switch.to in (State.LOSING, State.FAILED) else logging.INFO
        log.log(level, "drafting is %s for %s: %s", switch.to, where, switch.reason)


def bucket(batch: int) -> int:
    """Return the smallest size of the group of batch sizes: 1, 2-3, 4-7, ..."""
    return 1 << (max(batch, 1).bit_length() - 1)


def sizes(batch: int) -> str:
    """Return the group of a batch size in words."""
    first = bucket(batch)
    return "1" if first == 1 else f"{first}-{2 * first - 1}"
