"""The scheduler: which samples are read, written, preempted or wait. It knows numbers only.

It holds no model, no text and no clock, so that its properties can be tested without any of them.
The engine asks it what to do before each step, does it, and reports what happened.

**Order.** Samples wait in a queue. The next one has the lowest class; among these, its principal
has paid the least; among these, it was preempted or came first. A principal pays for each sample
when it is admitted, for the prompt and the expected answer alike, and the difference to what was
read and written when the sample ends. A sample gains one class for each `patience` seconds of
waiting, so none waits for ever.

**Reading.** Prompts share the rows of a step. A principal that runs fewer samples than the mean
reads first (`newcomer`), and the engine gives a part of the step to it (`newcomer_share`).

**Places.** At most `max_num_seqs` samples run. If all places are taken, a principal that runs less
than its fair share may take one from a principal that runs more than its own: the newest sample of
the latter is preempted, and continues later with the same text.

**Memory.** Every sample takes slots for its text (`slots_of`). A sample is admitted if its prompt
and `HEADROOM` tokens fit beside those that run. Reusable prefixes take what is left, and are given
up first, then the caches of draft models (`to_thin`), then places.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from math import ceil

HEADROOM = 256
"""Tokens of an answer that must fit when a sample is admitted."""
EXPECTED = 256
"""Largest number of tokens of an answer for which a principal is charged in advance."""
BURST = 4096
"""Tokens that a principal may receive above the mean and still read first."""
_SMALLEST = 128
_LARGE = 4096


def slots_of(tokens: int) -> int:
    """Return the slots that a cache of `tokens` can have allocated: storage grows in steps."""
    if tokens < _LARGE:
        return max(_SMALLEST, 1 << max(tokens - 1, 1).bit_length())
    return tokens + tokens // 4


def class_of(level: int, waited: float, patience: float) -> int:
    """Return the class of what has waited: it gains one for each `patience` seconds."""
    return level - int(max(waited, 0.0) // patience)


class Phase(StrEnum):
    """What a sample is doing."""

    WAITING = "waiting"
    READING = "reading"
    WRITING = "writing"


@dataclass(slots=True, kw_only=True, eq=False)
class Entry:
    """One sample, as the scheduler sees it.

    Attributes:
        key: its name, unique.
        principal: who pays.
        prompt: tokens of its prompt.
        most: largest number of tokens of its answer.
        arrived: seconds; only differences count.
        level: its class; lower runs first.
        after: key of the sample whose prompt it shares: it waits until that one is read.
        resumable: whether it can be preempted.
        written: tokens of its answer so far.
        unread: tokens of its text that are still to be read.
        phase: what it is doing.
        number: its place in the order of admission; larger is newer.
        charged: what its principal has paid since it began.
        work: tokens that had to be read for it when it began.
        before: tokens of its answer when it began.
        saved: part of its slots that it does not take: the caches of draft models were given up.
    """

    key: str
    principal: str = ""
    prompt: int = 1
    most: int = 1
    arrived: float = 0.0
    level: int = 0
    after: str | None = None
    resumable: bool = True
    written: int = 0
    unread: int = 0
    phase: Phase = Phase.WAITING
    number: int = 0
    charged: int = 0
    work: int = 0
    before: int = 0
    saved: float = 0.0

    @property
    def due(self) -> int:
        """Tokens that were read and written for it since it began."""
        return self.work - self.unread + self.written - self.before

    @property
    def tokens(self) -> int:
        """Tokens of its text so far."""
        return self.prompt + self.written

    @property
    def slots(self) -> int:
        """Slots that its cache takes after the next rounds."""
        return self.slots_for(self.tokens + 1)

    def slots_for(self, tokens: int) -> int:
        """Slots that its caches take for a text of so many tokens."""
        return ceil(slots_of(tokens) * (1.0 - self.saved))


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The limits of the scheduler.

    Attributes:
        max_num_seqs: samples that run at once.
        slots: of all caches together.
        patience: seconds of waiting after which a sample gains one class.
        newcomer_share: share of the time of a step in which a principal below its fair share may
            read.
        draft_share: part of a slot that the caches of draft models take; with 0, they are kept.
    """

    max_num_seqs: int = 16
    slots: int = 1 << 20
    patience: float = 30.0
    newcomer_share: float = 0.75
    draft_share: float = 0.0


@dataclass(slots=True, kw_only=True)
class Scheduler:
    """Decides which samples run. See the text of this file."""

    limits: Limits
    entries: dict[str, Entry] = field(default_factory=dict[str, Entry])
    paid: dict[str, int] = field(default_factory=dict[str, int])
    _admitted: int = 0

    # -- what happened ----------------------------------------------------------------------

    def add(self, entry: Entry) -> None:
        """Add a sample that waits."""
        if entry.key in self.entries:
            raise ValueError(f"there is a sample {entry.key!r} already")
        self.arrive(entry.principal, {e.principal for e in self.entries.values()})
        self.entries[entry.key] = entry

    def arrive(self, principal: str, here: Collection[str]) -> None:
        """Take note that a principal asks for something.

        If it has nothing `here` yet, it begins with what the least served one of those that have
        has received, so that it can neither claim the time before nor wait for the others to catch
        up.
        """
        if principal not in here:
            least = min((self._received(p) for p in here), default=0)
            self.paid[principal] = max(self.paid.get(principal, 0), least)

    def charge(self, principal: str, tokens: int) -> None:
        """Let a principal pay for something that is no sample, such as a search."""
        self.paid[principal] = self.paid.get(principal, 0) + tokens

    def admitted(self, key: str, unread: int) -> None:
        """A sample has begun; `unread` tokens of its text are still to be read."""
        entry = self.entries[key]
        self._admitted += 1
        entry.number, entry.work, entry.before = self._admitted, unread, entry.written
        self._pay(entry, unread + min(entry.most - entry.written, EXPECTED))
        self.read(key, unread)

    def read(self, key: str, unread: int) -> None:
        """A sample has still `unread` tokens to read; it writes once that is 0."""
        entry = self.entries[key]
        entry.unread = unread
        entry.phase = Phase.READING if unread else Phase.WRITING

    def wrote(self, key: str, count: int) -> None:
        """A sample has written `count` tokens."""
        self.entries[key].written += count

    def thinned(self, key: str) -> None:
        """A sample has lost the caches of draft models, and gets none any more."""
        self.entries[key].saved = self.limits.draft_share

    def preempted(self, key: str) -> None:
        """A sample has lost its place; it waits again, before those that came later."""
        entry = self.entries[key]
        self._settle(entry)
        entry.phase, entry.unread = Phase.WAITING, 0

    def ended(self, key: str) -> None:
        """A sample is over. Its principal pays for what it has written, and no more."""
        entry = self.entries.pop(key)
        if entry.phase is not Phase.WAITING:
            self._settle(entry)
        if not any(e.principal == entry.principal for e in self.entries.values()):
            self._forget()

    # -- what to do -------------------------------------------------------------------------

    def next(self, now: float, free: int) -> "Admission | None":
        """Return the sample that should begin now, and the samples that lose their places for it.

        Args:
            now: on the clock of `Entry.arrived`.
            free: slots of caches that are in use by nothing, or only by reusable prefixes.
        """
        if self._full and len({e.principal for e in self.entries.values()}) == 1:
            return None
        refused: set[tuple[str, int]] = set()
        for entry in self._queue(now):
            like = (entry.principal, entry.level)
            preempted = None if like in refused else self._place_for(entry)
            if preempted is None:
                refused.add(like)
                continue
            gained = sum(e.slots for e in preempted)
            needed = entry.slots_for(entry.tokens + min(entry.most - entry.written, HEADROOM))
            if needed <= free + gained or not self._others(preempted):
                return Admission(entry.key, tuple(e.key for e in preempted))
            return None  # nothing overtakes a sample that waits for memory
        return None

    def to_thin(self, over: int) -> list[str]:
        """Return the samples that give up the caches of draft models because caches outgrow their
        slots by `over`: the newest of the highest class first."""
        chosen: list[str] = []
        for entry in self._last_first if self.limits.draft_share else ():
            if over <= 0:
                break
            if not entry.saved:
                chosen.append(entry.key)
                over -= int(entry.slots * self.limits.draft_share)
        return chosen

    def to_preempt(self, over: int) -> list[str]:
        """Return the samples that give up their places because caches outgrow their slots by
        `over`: the newest of the highest class first, and never the oldest one."""
        chosen: list[str] = []
        for entry in self._last_first[:-1]:
            if over <= 0:
                break
            if entry.resumable:
                chosen.append(entry.key)
                over -= entry.slots
        return chosen

    @property
    def newcomer(self) -> str | None:
        """The principal below its fair share whose prompts are read first; None if there is none.

        It runs fewer samples than the mean of all that run any, and has not received more than
        `BURST` tokens more than their mean.
        """
        running = self.running
        counts = _counted(e.principal for e in running)
        reading = {e.principal for e in running if e.phase is Phase.READING}
        if len(counts) < 2 or not reading:
            return None
        received = {p: self._received(p) for p in counts}
        least = min(reading, key=lambda p: (counts[p], received[p], p))
        few = counts[least] * len(counts) < len(running)
        ahead = received[least] - sum(received.values()) / len(received)
        return least if few and ahead <= BURST else None

    def rows(self, budget: int) -> dict[str, int]:
        """Share the rows of a step among the prompts that are being read; 0 pauses one.

        A principal below its fair share comes first, then what was admitted first.
        """
        reading = [e for e in self.running if e.phase is Phase.READING]
        shares = dict.fromkeys((e.key for e in reading), 0)
        first = self.newcomer
        order = sorted(reading, key=lambda e: (e.principal != first, e.level, e.number))
        for entry in order:
            shares[entry.key] = min(entry.unread, budget)
            budget -= shares[entry.key]
        return shares

    # -- state ------------------------------------------------------------------------------

    @property
    def running(self) -> list[Entry]:
        """Samples that are read or written."""
        return [e for e in self.entries.values() if e.phase is not Phase.WAITING]

    @property
    def waiting(self) -> list[Entry]:
        """Samples that are in the queue."""
        return [e for e in self.entries.values() if e.phase is Phase.WAITING]

    @property
    def slots(self) -> int:
        """Slots of the samples that run."""
        return sum(entry.slots for entry in self.running)

    # -- inside -----------------------------------------------------------------------------

    def _queue(self, now: float) -> Iterator[Entry]:
        """Yield the samples that may begin, in their order."""
        busy = {e.key for e in self.entries.values() if e.phase is not Phase.WRITING}
        ready = [e for e in self.waiting if e.after is None or e.after not in busy]
        yield from sorted(
            ready,
            key=lambda e: (
                class_of(e.level, now - e.arrived, self.limits.patience),
                self.paid.get(e.principal, 0),
                -e.written,
                e.arrived,
            ),
        )

    def _place_for(self, entry: Entry) -> list[Entry] | None:
        """Return whom a sample replaces: nobody if there is a free place; None if it must wait."""
        if not self._full:
            return []
        running = self.running
        share = self.limits.max_num_seqs / len({e.principal for e in self.entries.values()})
        own = sum(e.principal == entry.principal for e in running)
        if own + 1 > share:
            return None
        counts = _counted(e.principal for e in running)
        rich = [e for e in running if counts[e.principal] > share and e.resumable]
        most = max((counts[e.principal] for e in rich), default=0)
        found = [e for e in rich if counts[e.principal] == most and e.level >= entry.level]
        return [max(found, key=lambda e: e.number)] if found else None

    @property
    def _last_first(self) -> list[Entry]:
        """Samples that run: the newest of the highest class first."""
        return sorted(self.running, key=lambda e: (-e.level, -e.number))

    @property
    def _full(self) -> bool:
        """Whether all places are taken."""
        return len(self.running) >= self.limits.max_num_seqs

    def _others(self, preempted: Sequence[Entry]) -> bool:
        """Whether anything would run beside a new sample."""
        return len(self.running) > len(preempted)

    def _received(self, principal: str) -> int:
        """Return what a principal has received: without what it has paid in advance."""
        ahead = sum(e.charged - e.due for e in self.running if e.principal == principal)
        return self.paid.get(principal, 0) - ahead

    def _pay(self, entry: Entry, tokens: int) -> None:
        entry.charged += tokens
        self.charge(entry.principal, tokens)

    def _settle(self, entry: Entry) -> None:
        """Correct what was paid for an entry to what is due."""
        self._pay(entry, entry.due - entry.charged)
        entry.charged = 0

    def _forget(self) -> None:
        """Drop the accounts of principals that have nothing here, once there are many."""
        if len(self.paid) > 1024:
            active = {e.principal for e in self.entries.values()}
            self.paid = {p: paid for p, paid in self.paid.items() if p in active}


@dataclass(frozen=True, slots=True)
class Admission:
    """A sample that begins, and the samples that are preempted for it."""

    key: str
    preempted: tuple[str, ...] = ()


def _counted(names: Iterable[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name in names:
        counts[name] = counts.get(name, 0) + 1
    return counts
