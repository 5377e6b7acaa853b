"""Sessions: whoever joins, leaves or is preempted, each text is that of its single run (I7)."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from outrider import kernels
from outrider.core.errors import ContextError, StrategyError
from outrider.core.types import FinishReason, Prompt
from outrider.decoding import Generation, Session, Stage
from outrider.drafters import Lookup, ModelDrafter, NoDrafter, Pearl, Qualified, TokenRecycling
from outrider.models.cpu.native import NativeDecoder
from outrider.models.llama.decoder import Decoder
from outrider.policies import FixedLength
from outrider.protocols import Drafter, Segment
from tests.exactness.setups.rigs import PROMPTS, generation, run, stage, tabular_family
from tests.models.setups.make_checkpoints import make_checkpoint

FAMILY = tabular_family()
DRAFTERS: dict[str, Callable[[Any], Drafter]] = {
    "none": lambda small: NoDrafter(),
    "lookup": lambda small: Lookup(min_ngram=1),
    "recycling": lambda small: TokenRecycling(),
    "model": lambda small: ModelDrafter(model=small),
    "pearl": lambda small: Pearl(drafter=ModelDrafter(model=small)),
}
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["join", "preempt", "resume", "cancel", "step", "step", "step"]),
        st.integers(0, 9),
    ),
    max_size=30,
)
CHUNKS = st.sampled_from([None, 1, 2, 5])


def nested(small: Any) -> Drafter:
    return Qualified(
        drafter=ModelDrafter(model=small), qualifier=FAMILY.qualifier, policy=FixedLength(2)
    )


def check_walk(
    whole: Stage,
    prompts: Sequence[Sequence[int]],
    steps: Sequence[tuple[str, int]],
    chunk: int | None,
    rows: int | None = None,
    **options: Any,
) -> None:
    """Joins, leaves and preemptions as `steps` say; each text must equal its single run."""
    expected = [tuple(g.output) for g in run(whole, prompts, **options)]
    session, texts = Session(whole), [generation(p, **options) for p in prompts]
    waiting, out, cancelled = list(range(len(prompts))), [], set()
    for what, number in steps:
        if what == "join" and waiting:
            session.add([texts[waiting.pop(0)]], chunk=chunk)
        elif what == "preempt" and session.generations:
            one = session.generations[number % len(session.generations)]
            session.preempt(one)
            out.append(texts.index(one))
        elif what == "resume" and out:
            session.add([texts[out.pop(number % len(out))]], chunk=chunk)
        elif what == "cancel" and session.generations and number == 0:
            session.generations[0].cancel()
            cancelled.add(texts.index(session.generations[0]))
        else:
            session.step(draft_rows=rows)
    session.add([texts[i] for i in (*out, *waiting)], chunk=chunk)
    while session.pending:
        session.step(draft_rows=rows)
    for i, (text, single) in enumerate(zip(texts, expected, strict=True)):
        written = tuple(text.output)
        assert written == (single[: len(written)] if i in cancelled else single)
        assert text.finish is not None


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("drafter", [*DRAFTERS, "nested"])
@settings(max_examples=8)
@given(steps=STEPS, chunk=CHUNKS, rows=CHUNKS, temperature=st.sampled_from([0.0, 0.9]))
def test_every_text_is_that_of_its_single_run(
    drafter: str,
    steps: list[tuple[str, int]],
    chunk: int | None,
    rows: int | None,
    temperature: float,
) -> None:
    make = DRAFTERS.get(drafter, nested)
    whole = stage(FAMILY.target, make(FAMILY.draft), window=4)
    check_walk(whole, PROMPTS, steps, chunk, rows, temperature=temperature, max_new_tokens=12)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.skipif(not kernels.available(), reason="no compiler")
@pytest.mark.parametrize("dtype", [torch.float32, torch.int8])
def test_every_text_is_that_of_its_single_run_on_the_compiled_runner(
    dtype: torch.dtype, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = make_checkpoint(tmp_path_factory.mktemp("llama"), "llama", std=0.3)
    model = NativeDecoder.load(folder, dtype=dtype, threads=1)
    whole = stage(model, Lookup(min_ngram=1), window=4)
    prompts = [tuple(range(n, 3 * n + 2)) for n in (1, 9, 30)]

    @settings(max_examples=5)
    @given(steps=STEPS, chunk=CHUNKS)
    def walk(steps: list[tuple[str, int]], chunk: int | None) -> None:
        check_walk(whole, prompts, steps, chunk, temperature=0.8, max_new_tokens=12)

    walk()


def test_prompts_in_parts_are_read_beside_others() -> None:
    """The parts of a prompt go through the forwards that decode the other request."""
    session = Session(stage(FAMILY.target, NoDrafter()))
    first, second = generation((1, 2, 3)), generation((4, 5, 6, 1, 2, 3, 4, 5))
    session.add([first])
    session.add([second], chunk=2)
    written = []
    while not second.output:
        session.step()
        written.append(len(first.output))
    assert written == [1, 2, 3, 4]
    assert len(session.generations) == 2


@pytest.mark.parametrize("nest", [None, nested])
def test_no_round_reads_more_with_the_draft_model_than_it_may(
    nest: Callable[[Any], Drafter] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompts, and texts that were written without drafts: two requests of 60 tokens."""
    draft, window, most = FAMILY.draft, 3, 8
    drafter = ModelDrafter(model=draft) if nest is None else nest(draft)
    whole = stage(FAMILY.target, drafter, window=window)
    prompts = [(1, 2, 3) * 20, (4, 5, 6) * 20]
    expected = [g.output for g in run(whole, prompts, max_new_tokens=60)]
    forward, fed = draft.forward, [0]

    def counted(segments: Sequence[Segment], want: Sequence[Any]) -> Any:
        unread = sum(len(s.cache.pending) for s in segments if not s.cache.fed)
        fed[-1] += unread + sum(len(s.tokens) for s in segments)
        return forward(segments, want)

    monkeypatch.setattr(type(draft), "forward", _only(draft, counted))
    session = Session(whole)
    texts = [generation(prompt, max_new_tokens=60) for prompt in prompts]
    session.add(texts, chunk=100)
    read, waited = 0, 0
    while session.pending:
        fed.append(0)
        undrafted = 40 < sum(len(text.output) for text in texts) < 80
        session.step([0] * len(session.generations) if undrafted else None, most)
        assert session.drafts_read <= most
        read, waited = read + session.drafts_read, waited + session.drafts_wait
    assert [text.output for text in texts] == expected
    assert read >= 2 * 59 and waited >= read // most - 1
    assert max(fed) <= most + 2 * (2 * window + 16)  # the drafts, and what is emitted at once
    assert all(text.counters.drafted for text in texts)


def _only(model: Any, forward: Callable[..., Any]) -> Callable[..., Any]:
    """A method of the class that calls `forward` for this model only."""
    real = type(model).forward
    return lambda self, *given: forward(*given) if self is model else real(self, *given)


def test_drafts_go_on_after_their_caches_were_given_up() -> None:
    whole = stage(FAMILY.target, ModelDrafter(model=FAMILY.draft), window=3)
    [expected] = run(whole, [(1, 2, 3)], max_new_tokens=30)
    session, text = Session(whole), generation((1, 2, 3), max_new_tokens=30)
    session.add([text])
    while len(text.output) < 10:
        session.step()
    session.forget_drafts(text)
    assert text.open_sequence.state is None
    while session.pending:
        session.step()
    assert text.output == expected.output and text.open_sequence.begun


def test_two_requests_may_end_in_the_same_round() -> None:
    session = Session(stage(FAMILY.target, NoDrafter()))
    pair = [generation((1, 2), max_new_tokens=3), generation((4,), max_new_tokens=3)]
    session.add(pair)
    while session.pending:
        advanced = session.step()
    assert advanced == pair
    assert [g.finish for g in pair] == [FinishReason.LENGTH] * 2
    assert session.step() == [] and not session.pending


def test_a_forked_request_goes_on_as_if_it_had_written_the_text_itself() -> None:
    """Sample 3 forked from sample 0 after five tokens, against a run whose text begins so."""
    whole = stage(FAMILY.target, ModelDrafter(model=FAMILY.draft), window=3)
    session = Session(whole)
    [first] = [generation((1, 2, 3), temperature=1.0)]
    session.add([first])
    while len(first.output) < 5:
        session.step()
    branch = session.fork(first, sample=3)
    begun = list(branch.output)
    while session.pending:
        session.step()
    other = generation((1, 2, 3), temperature=1.0, sample=3)
    other.request.output.extend(begun)
    alone = Session(whole)
    alone.add([other])
    while alone.pending:
        alone.step()
    assert branch.output == other.output != first.output
    assert first.output == list(run(whole, [(1, 2, 3)], temperature=1.0)[0].output)
    assert branch.sources[: len(begun)] == first.sources[: len(begun)]


def test_a_dropped_branch_leaves_the_others_alone() -> None:
    session = Session(stage(FAMILY.target, NoDrafter()))
    first = generation((1, 2, 3), temperature=1.0)
    session.add([first])
    session.step()
    branches = [session.fork(first, sample=s) for s in (1, 2)]
    session.drop(branches[0])
    while session.pending:
        session.step()
    assert branches[0].finish is FinishReason.CANCELLED and len(branches[0].output) == 1
    assert first.finish is branches[1].finish is FinishReason.LENGTH


BRANCHING = st.lists(
    st.tuples(st.sampled_from(["fork", "drop", "step", "step"]), st.integers(0, 9)), max_size=12
)


def separate(whole: Stage, begun: Sequence[int], sample: int, **options: Any) -> Generation:
    """A run of its own whose text begins with what a branch had written when it was forked."""
    alone = generation((1, 2, 3), sample=sample, **options)
    alone.request.output.extend(begun)
    session = Session(whole)
    session.add([alone])
    while session.pending:
        session.step()
    return alone


def check_branches(whole: Stage, steps: Sequence[tuple[str, int]], **options: Any) -> int:
    """Forks and drops as `steps` say; each branch ends like a separate run. How many did."""
    session = Session(whole)
    first = generation((1, 2, 3), **options)
    session.add([first])
    begun: dict[int, tuple[Generation, list[int]]] = {id(first): (first, [])}
    for what, number in steps:
        running = [g for g in session.generations if g.running]
        if what == "step" and session.pending:
            session.step()
        elif what == "fork" and running and len(begun) < 6:
            branch = session.fork(running[number % len(running)], sample=10 + len(begun))
            begun[id(branch)] = branch, list(branch.output)
        elif what == "drop" and len(running) > 1:
            gone = running[number % len(running)]
            session.drop(gone)
            assert gone.finish is FinishReason.CANCELLED
            del begun[id(gone)]
    while session.pending:
        session.step()
    for branch, text in begun.values():
        other = separate(whole, text, branch.request.sampler.sample, **options)
        assert branch.output == other.output
    scores = {id(branch): branch.score for branch, _ in begun.values()}
    best = max(begun, key=lambda one: scores[one])
    assert scores[best] == max(sum(t.logprob for t in b.logprobs) for b, _ in begun.values())
    return len(begun)


@settings(max_examples=25)
@given(steps=BRANCHING, drafter=st.sampled_from(list(DRAFTERS)))
def test_branches_end_like_separate_runs(steps: list[tuple[str, int]], drafter: str) -> None:
    whole = stage(FAMILY.target, DRAFTERS[drafter](FAMILY.draft), window=3)
    check_branches(whole, steps, temperature=1.0, max_new_tokens=12, logprobs=0)


@pytest.mark.skipif(not kernels.available(), reason="needs a C compiler")
def test_branches_of_the_compiled_runner(tmp_path: Path) -> None:
    """To the bit: several branches advance in one forward, each as alone."""
    path = make_checkpoint(tmp_path / "llama", std=0.3)
    target = NativeDecoder.load(path, dtype=torch.int8, threads=1)
    steps = [("step", 0), ("fork", 0), ("step", 0), ("fork", 1), ("drop", 0), ("fork", 1)]
    whole = stage(target, Lookup(min_ngram=1), window=3)
    options: dict[str, Any] = {"temperature": 1.0, "max_new_tokens": 16, "logprobs": 0}
    assert check_branches(whole, steps, **options) == 3


def test_only_a_request_that_is_being_written_is_forked() -> None:
    session = Session(stage(FAMILY.target, NoDrafter()))
    waiting, ended = generation((1, 2, 3)), generation((1, 2), max_new_tokens=1)
    session.add([ended])
    session.step()
    session.add([waiting], chunk=1)
    for one in (waiting, ended):
        with pytest.raises(ValueError, match="only a running request"):
            session.fork(one, sample=1)


def test_a_text_that_is_long_enough_is_not_written_on() -> None:
    """Resumed with as many tokens as are asked for."""
    whole = stage(FAMILY.target, NoDrafter())
    [done] = run(whole, [(1, 2, 3)], max_new_tokens=4)
    assert separate(whole, done.output, 0, max_new_tokens=4).output == done.output


def test_a_score_is_the_log_probability_of_the_text() -> None:
    whole = stage(FAMILY.target, ModelDrafter(model=FAMILY.draft), window=3)
    [drafted] = run(whole, [(1, 2, 3)], temperature=1.0, logprobs=0, max_new_tokens=9)
    table, text = FAMILY.target.table, [1, 2, 3, *drafted.output]  # pyright: ignore
    expected = sum(
        float(torch.log_softmax(table[tuple(text[i - 2 : i])].double(), -1)[text[i]])
        for i in range(3, len(text))
    )
    assert drafted.score == pytest.approx(expected, abs=1e-9)
    [silent] = run(whole, [(1, 2, 3)], max_new_tokens=3)
    with pytest.raises(ValueError, match="logprobs=0"):
        _ = silent.score


def storage_bytes(generations: Sequence[Generation]) -> int:
    """Bytes of keys and values, those that several caches share counted once."""
    storages = {id(g.sequence.cache.storage): g.sequence.cache.storage for g in generations}
    return sum(s.keys.nbytes + s.values.nbytes for s in storages.values())


def test_forks_share_their_bytes_until_one_of_them_writes(tmp_path: Path) -> None:
    model = Decoder.load(make_checkpoint(tmp_path, "llama"), dtype=torch.float64)
    session = Session(stage(model, NoDrafter()))
    first = generation(tuple(range(1, 60)))
    session.add([first])
    session.step()
    alone = storage_bytes([first])
    branches = [session.fork(first, sample=s) for s in (1, 2, 3)]
    assert storage_bytes([first, *branches]) == alone
    session.step()
    assert storage_bytes([first, *branches]) == 4 * alone
    for branch in branches[:2]:
        session.drop(branch)
    assert storage_bytes(session.generations) == 2 * alone


def test_a_request_may_be_cancelled_while_its_prompt_is_read() -> None:
    session = Session(stage(FAMILY.target, NoDrafter()))
    made = generation((4, 5, 6, 1, 2, 3, 4, 5))
    session.add([made], chunk=2)
    session.step()
    made.cancel()
    assert session.step() == [] and not session.pending
    assert made.finish is FinishReason.CANCELLED and made.output == []


@pytest.mark.parametrize("chunk", [None, 4])
@pytest.mark.parametrize("what", ["long", "unknown id", "empty"])
def test_what_can_not_be_read_is_refused_and_no_request_has_joined(
    what: str, chunk: int | None
) -> None:
    prompts = {
        "long": [1] * FAMILY.target.info.context_length,
        "unknown id": [1, 2, 3, FAMILY.target.info.vocab_size],
        "empty": [],
    }
    session = Session(stage(FAMILY.target, NoDrafter()))
    with pytest.raises(ContextError):
        session.add([generation((1, 2)), generation(prompts[what])], chunk=chunk)
    assert not session.pending


def test_a_request_whose_prompt_is_not_ids_alone_can_not_be_preempted_midway() -> None:
    prompt = Prompt(token_ids=(1, 2, 3), positions=(0, 5, 9))
    made: Generation = generation(prompt)
    session = Session(stage(FAMILY.target, NoDrafter()))
    session.add([made], chunk=1)
    session.step()
    with pytest.raises(StrategyError, match="cannot be resumed from its text"):
        session.preempt(made)
    with pytest.raises(ValueError, match="runs only once"):
        session.add([made])
