"""The scheduler: places, memory, fairness and order, by random walks over its whole interface."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from outrider.engine.serving.scheduler import (
    BURST,
    Entry,
    Limits,
    Phase,
    Scheduler,
    slots_of,
)


class Walk(RuleBasedStateMachine):
    """Adds, admits, reads, writes, preempts and ends samples in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.count = 0

    @initialize(places=st.integers(1, 5), slots=st.sampled_from([512, 2048, 100_000]))
    def begin(self, places: int, slots: int) -> None:
        self.scheduler = Scheduler(limits=Limits(max_num_seqs=places, slots=slots))

    @rule(
        principal=st.sampled_from("abc"),
        prompt=st.integers(1, 400),
        most=st.integers(1, 400),
        level=st.integers(0, 2),
        shared=st.booleans(),
        resumable=st.sampled_from([True, True, False]),
    )
    def add(
        self, principal: str, prompt: int, most: int, level: int, shared: bool, resumable: bool
    ) -> None:
        self.count += 1
        after = f"s{self.count - 1}" if shared and self.count > 1 else None
        self.scheduler.add(
            Entry(
                key=f"s{self.count}",
                principal=principal,
                prompt=prompt,
                most=most,
                arrived=self.now,
                level=level,
                after=after,
                resumable=resumable,
            )
        )

    @rule()
    def admit(self) -> None:
        scheduler = self.scheduler
        free = scheduler.limits.slots - scheduler.slots
        chosen = scheduler.next(self.now, free)
        if chosen is None:
            return
        assert scheduler.entries[chosen.key].phase is Phase.WAITING
        for key in chosen.preempted:
            assert scheduler.entries[key].resumable
            scheduler.preempted(key)
        alone = not scheduler.running
        scheduler.admitted(chosen.key, scheduler.entries[chosen.key].tokens - 1)
        assert alone or scheduler.slots <= scheduler.limits.slots

    @rule(budget=st.integers(1, 300))
    def step(self, budget: int) -> None:
        self.now += 0.1
        scheduler = self.scheduler
        shares = scheduler.rows(budget)
        reading = [e for e in scheduler.running if e.phase is Phase.READING]
        assert set(shares) == {e.key for e in reading}
        unread = sum(e.unread for e in reading)
        assert sum(shares.values()) == min(budget, unread)  # no row is lost, none is invented
        for entry in reading:
            assert 0 <= shares[entry.key] <= entry.unread
            scheduler.read(entry.key, entry.unread - shares[entry.key])
        for entry in [e for e in scheduler.running if e.phase is Phase.WRITING]:
            scheduler.wrote(entry.key, 1)
            if entry.written >= entry.most:
                scheduler.ended(entry.key)

    @rule()
    def fit(self) -> None:
        scheduler = self.scheduler
        over = scheduler.slots - scheduler.limits.slots
        chosen = scheduler.to_preempt(over)
        assert len(chosen) < max(len(scheduler.running), 1)
        assert over > 0 or not chosen
        for key in chosen:
            scheduler.preempted(key)
        if over > 0:
            rest = [e for e in scheduler.running if e.resumable]
            assert scheduler.slots <= scheduler.limits.slots or len(rest) <= 1

    @precondition(lambda self: self.scheduler.entries)
    @rule(number=st.integers(0, 99))
    def cancel(self, number: int) -> None:
        keys = sorted(self.scheduler.entries)
        self.scheduler.ended(keys[number % len(keys)])

    @invariant()
    def places_hold(self) -> None:
        if hasattr(self, "scheduler"):
            assert len(self.scheduler.running) <= self.scheduler.limits.max_num_seqs
            paid = self.scheduler.paid
            charged = dict.fromkeys("abc", 0)
            for entry in self.scheduler.running:
                charged[entry.principal] += entry.charged
            assert all(paid.get(p, 0) >= 0 for p in charged)

    def teardown(self) -> None:
        """Whatever happened: everything that waits comes to its end."""
        if not hasattr(self, "scheduler"):
            return
        for _ in range(20_000):
            if not self.scheduler.entries:
                return
            self.fit()
            before = None
            while before != (before := len(self.scheduler.running)):
                self.admit()
            self.step(64)
        raise AssertionError("some sample never ends")


TestWalk = Walk.TestCase
TestWalk.settings = settings(max_examples=20, stateful_step_count=30, deadline=None)


def waiting(scheduler: Scheduler, count: int, principal: str, **options: int) -> None:
    for number in range(count):
        key = f"{principal}{number}"
        entry = Entry(key=key, principal=principal, prompt=100, most=100, **options)
        scheduler.add(entry)


def admit_all(scheduler: Scheduler, now: float = 0.0) -> list[str]:
    admitted: list[str] = []
    while (chosen := scheduler.next(now, scheduler.limits.slots - scheduler.slots)) is not None:
        for key in chosen.preempted:
            scheduler.preempted(key)
        scheduler.admitted(chosen.key, 99)
        admitted.append(chosen.key)
    return admitted


def test_a_flood_of_one_key_leaves_places_for_another() -> None:
    scheduler = Scheduler(limits=Limits(max_num_seqs=4))
    waiting(scheduler, 50, "flood")
    assert len(admit_all(scheduler)) == 4
    scheduler.add(Entry(key="other", principal="other", prompt=10, most=10))
    assert admit_all(scheduler) == ["other"]
    assert [e.principal for e in scheduler.running].count("flood") == 3
    assert admit_all(scheduler) == []  # the preempted sample does not take its place back


def test_a_newcomer_reads_first_until_it_has_received_much_more() -> None:
    scheduler = Scheduler(limits=Limits(max_num_seqs=4))
    waiting(scheduler, 3, "flood")
    admit_all(scheduler)
    assert scheduler.newcomer is None
    scheduler.add(Entry(key="other", principal="other", prompt=30_000, most=10))
    assert scheduler.next(0.0, 1 << 20) is not None
    scheduler.admitted("other", 29_999)
    assert scheduler.newcomer == "other"
    assert scheduler.rows(100) == {"flood0": 0, "flood1": 0, "flood2": 0, "other": 100}
    scheduler.read("other", 29_999 - 3 * BURST)
    assert scheduler.newcomer is None
    assert scheduler.rows(100) == {"flood0": 99, "flood1": 1, "flood2": 0, "other": 0}


def test_principals_receive_equal_shares_over_time() -> None:
    scheduler = Scheduler(limits=Limits(max_num_seqs=1))
    waiting(scheduler, 40, "a")
    waiting(scheduler, 40, "b")
    order = ""
    for _ in range(20):
        [key] = admit_all(scheduler)
        order += key[0]
        scheduler.wrote(key, 100)
        scheduler.ended(key)
    assert abs(order.count("a") - order.count("b")) <= 1


def test_a_better_class_runs_first_and_waiting_improves_the_class() -> None:
    scheduler = Scheduler(limits=Limits(max_num_seqs=1, patience=30.0))
    scheduler.add(Entry(key="late", level=0, arrived=100.0))
    scheduler.add(Entry(key="old", level=2, arrived=0.0))
    first = scheduler.next(100.0, 1 << 20)
    assert first is not None
    assert first.key == "old"  # three classes better after 100 seconds
    scheduler.ended("old")
    scheduler.add(Entry(key="low", level=1, arrived=100.0))
    second = scheduler.next(100.0, 1 << 20)
    assert second is not None
    assert second.key == "late"


def test_a_sample_waits_until_its_prompt_is_read_by_another() -> None:
    scheduler = Scheduler(limits=Limits(max_num_seqs=4))
    scheduler.add(Entry(key="x0", prompt=50, most=10))
    scheduler.add(Entry(key="x1", prompt=50, most=10, after="x0"))
    assert admit_all(scheduler) == ["x0"]
    scheduler.read("x0", 0)
    assert admit_all(scheduler) == ["x1"]


def test_nothing_overtakes_a_sample_that_waits_for_memory() -> None:
    scheduler = Scheduler(limits=Limits(max_num_seqs=4, slots=1024))
    scheduler.add(Entry(key="a", prompt=400, most=400))
    admit_all(scheduler)
    scheduler.add(Entry(key="large", prompt=400, most=400, arrived=1.0))
    scheduler.add(Entry(key="small", prompt=10, most=10, arrived=2.0))
    assert admit_all(scheduler, 3.0) == []
    scheduler.ended("a")
    assert admit_all(scheduler, 3.0)[0] == "large"


def test_the_oldest_sample_keeps_its_place_whatever_its_size() -> None:
    scheduler = Scheduler(limits=Limits(max_num_seqs=4, slots=2048))
    for key in "ab":
        scheduler.add(Entry(key=key, prompt=300, most=3000))
    admit_all(scheduler)
    assert scheduler.to_preempt(0) == []
    scheduler.wrote("a", 2000)
    assert scheduler.to_preempt(scheduler.slots - 2048) == ["b"]
    scheduler.preempted("b")
    assert scheduler.to_preempt(scheduler.slots - 2048) == []


def test_caches_of_draft_models_are_given_up_before_places() -> None:
    scheduler = Scheduler(limits=Limits(max_num_seqs=4, slots=2048, draft_share=0.25))
    for key in "ab":
        scheduler.add(Entry(key=key, prompt=300, most=3000))
    admit_all(scheduler)
    assert scheduler.slots == 1024
    assert scheduler.to_thin(0) == [] and scheduler.to_thin(100) == ["b"]
    scheduler.thinned("b")
    assert scheduler.slots == 1024 - 128 and scheduler.to_thin(100) == ["a"]
    scheduler.preempted("b")
    assert admit_all(scheduler) == ["b"] and scheduler.slots == 1024 - 128


def test_an_account_of_a_newcomer_begins_with_the_least_served() -> None:
    """It can claim no time from before it came."""
    scheduler = Scheduler(limits=Limits(max_num_seqs=2))
    waiting(scheduler, 3, "a")
    admit_all(scheduler)
    scheduler.read("a0", 0)
    scheduler.add(Entry(key="b0", principal="b"))
    assert scheduler.paid["b"] == 99  # what "a" has received, not what it has paid in advance
    assert scheduler.paid["a"] == 2 * (99 + 100)


def test_what_was_not_written_is_paid_back() -> None:
    scheduler = Scheduler(limits=Limits())
    scheduler.add(Entry(key="a", principal="a", prompt=100, most=200))
    admit_all(scheduler)
    assert scheduler.paid["a"] == 99 + 200
    scheduler.read("a", 0)
    scheduler.wrote("a", 7)
    scheduler.ended("a")
    assert scheduler.paid["a"] == 99 + 7


@settings(max_examples=50)
@given(st.integers(1, 20_000))
def test_slots_never_shrink(tokens: int) -> None:
    assert tokens <= slots_of(tokens) <= slots_of(tokens + 1)


def test_two_samples_with_one_name_are_refused() -> None:
    scheduler = Scheduler(limits=Limits())
    scheduler.add(Entry(key="a"))
    with pytest.raises(ValueError, match="already"):
        scheduler.add(Entry(key="a"))
