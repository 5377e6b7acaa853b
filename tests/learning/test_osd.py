"""Online Speculative Decoding: the draft model is trained while it drafts, the text stays."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import outrider
from outrider import kernels
from outrider.core.errors import CheckpointError, OptionError
from outrider.core.types import NO_IDS, Prompt, Verified, as_ids
from outrider.drafters import ModelDrafter, TreeDrafter
from outrider.engine.generator import Generator
from outrider.engine.serving.engine import Engine
from outrider.learning import records
from outrider.learning.losses import forward_kl
from outrider.learning.osd import Osd, OsdLearner
from outrider.learning.records import Example, coarse
from outrider.learning.trainable import Trainable
from outrider.models.checkpoints.opening import open_checkpoint
from outrider.models.cpu.native import NativeDecoder
from outrider.protocols import Request, Segment
from tests.engine.serving.setups import COSTS, Desk, until
from tests.models.setups.make_checkpoints import make_checkpoint

pytestmark = [
    pytest.mark.skipif(not kernels.available(), reason=kernels.reason_missing()),
    pytest.mark.method("osd"),
]

PROMPTS = [tuple(range(start, start + 12)) for start in (300, 700, 1100, 1500)]
"""Ids of frequent tokens; the target continues any of them."""


def load(draft: Path, learn: Any = None, **options: Any) -> Generator:
    settings = {"drafter": "model", "num_speculative_tokens": 3, **options}
    return outrider.load(
        "tiny", draft=draft, dtype="float32", threads=1, learn=learn, device="cpu", **settings
    )


@pytest.fixture(scope="module")
def undrafted() -> Generator:
    return outrider.load("tiny", mode="none", dtype="float32", threads=1)


def learner_of(generator: Generator) -> OsdLearner:
    found = generator.learner
    assert isinstance(found, OsdLearner)
    return found


def texts(generator: Generator, **options: Any) -> list[tuple[int, ...]]:
    """The answers to two prompts, one after the other."""
    how = {"max_new_tokens": 12, "ignore_eos": True, **options}
    return [
        tuple(generator.generate(Prompt(token_ids=ids), **how).token_ids) for ids in PROMPTS[:2]
    ]


class Restless(OsdLearner):
    """Trains with every request that it has seen, in the middle of rounds, and so swaps weights
    before almost every round."""

    changed_within_a_round = False

    def observe(self, requests: Sequence[Request], verified: Sequence[Verified]) -> None:
        before = self._model.packed
        super().observe(requests, verified)
        for request in requests:
            self.note(request)
        while self.work(1.0):
            pass
        self.changed_within_a_round |= self._model.packed is not before


def restless(generator: Generator, draft: Path) -> tuple[Generator, Restless]:
    """The same generator with a learner that swaps in mid-stream."""
    config = Osd(rate=1e-2, requests=1)
    learner = Restless(config, _model(generator), open_checkpoint(draft))
    made = Generator(
        replace(generator.strategy, learner=learner),
        tokenizer=generator.tokenizer,
        defaults=generator.defaults,
    )
    return made, learner


@pytest.mark.parametrize(
    ("options", "sampling"),
    [
        ({}, {}),
        ({}, {"temperature": 0.9, "seed": 3}),
        ({"growth": "eagle2(width=2)", "num_speculative_tokens": None, "num_draft_nodes": 6}, {}),
    ],
    ids=["chain", "sampled", "tree"],
)
def test_the_text_does_not_depend_on_learning_nor_on_swaps_in_mid_stream(
    draft: Path, undrafted: Generator, options: dict[str, Any], sampling: dict[str, Any]
) -> None:
    generator, learner = restless(load(draft, **options), draft)
    assert texts(generator, **sampling) == texts(undrafted, **sampling)
    assert learner.counts["swaps"] > 4
    assert not learner.off
    assert not learner.changed_within_a_round


def test_after_a_swap_a_request_is_drafted_for_with_the_new_weights(
    draft: Path, tmp_path: Path
) -> None:
    generator, learner = restless(load(draft), draft)
    prompt = Prompt(token_ids=PROMPTS[0])
    generation, rounds = generator.start(prompt, max_new_tokens=20, ignore_eos=True)
    for _ in range(3):
        next(rounds)
    learner.swap()
    learner.save(tmp_path)
    state = generation.open_sequence.state
    running, new, old = _model(generator), _model(load(tmp_path)), _model(load(draft))
    generator.strategy.drafter.commit([state], generation.open_sequence.drafting.owed)
    text = tuple(state.cache.text)
    [now] = running.forward([Segment(state.cache, NO_IDS)], [as_ids([-1])])
    expected, before = _next_row(new, text), _next_row(old, text)
    assert torch.equal(now.logits, expected)
    assert not torch.equal(expected, before)


def _model(generator: Generator) -> NativeDecoder:
    drafter = generator.strategy.drafter
    assert isinstance(drafter, ModelDrafter | TreeDrafter)
    assert isinstance(drafter.model, NativeDecoder)
    return drafter.model


def _next_row(model: NativeDecoder, text: tuple[int, ...]) -> torch.Tensor:
    [cache] = model.start([Prompt(token_ids=text)])
    return model.forward([Segment(cache, NO_IDS)], [as_ids([-1])])[0].logits


def acceptance(generator: Generator, prompts: Sequence[tuple[int, ...]]) -> float:
    """Accepted share of drafted tokens over a window of requests."""
    accepted = drafted = 0
    for ids in prompts:
        prompt = Prompt(token_ids=ids)
        result = generator.generate(prompt, max_new_tokens=24, ignore_eos=True)
        accepted += result.speculation.target.accepted
        drafted += result.speculation.target.drafted
    return accepted / drafted


def test_acceptance_rises_on_a_stationary_stream_and_recovers_after_a_change(draft: Path) -> None:
    generator = load(draft, "osd(rate=1e-3,requests=2)")
    first = [acceptance(generator, PROMPTS[:2]) for _ in range(4)]
    second = [acceptance(generator, PROMPTS[2:]) for _ in range(5)]
    assert first[-1] > first[0] + 0.2
    assert second[0] < first[-1] - 0.2
    assert second[-1] > second[0] + 0.2
    assert learner_of(generator).counts["updates"] >= 6


@pytest.fixture(scope="module")
def recorded(draft: Path) -> list[list[Any]]:
    """Text and corrections of two requests."""
    generator = load(draft, "osd(requests=1000)")
    kept: list[list[Any]] = []
    learner = learner_of(generator)
    note = learner.note

    def keep(request: Request) -> None:
        text = [*request.prompt.token_ids, *request.output]
        kept.append([text, list(learner._open[id(request)].corrections)])
        note(request)

    learner.note = keep  # pyright: ignore[reportAttributeAccessIssue]
    acceptance(generator, PROMPTS[:2])
    return kept


def examples(recorded: list[list[Any]]) -> list[Example]:
    return [one for text, found in recorded for one in records.examples_of(text, found, 64)]


def divergence(copy: Trainable, found: Sequence[Example]) -> float:
    with torch.no_grad():
        each = [forward_kl(e.logprobs, coarse(copy.rows(e), e.ids)) for e in found]
    return float(torch.cat(each).mean())


def test_rows_are_those_that_predicted_the_corrected_tokens(
    draft: Path, recorded: list[list[Any]]
) -> None:
    copy = Trainable(open_checkpoint(draft), 1e-3)
    for example in examples(recorded):
        corrected = example.tokens[example.rows + 1]
        with torch.no_grad():
            drafted = copy.rows(example).argmax(-1)
        assert torch.equal(example.ids[:, 0], corrected)  # the target wrote its best token
        assert not bool((drafted == corrected).any())  # the draft model proposed another


def test_training_at_the_row_of_the_corrected_token_does_not_teach_it(
    draft: Path, recorded: list[list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = examples(recorded)
    with monkeypatch.context() as patch:
        patch.setattr(records, "predicting", lambda index: index)
        broken = examples(recorded)
    after: list[float] = []
    for used in (right, broken):
        copy = Trainable(open_checkpoint(draft), 1e-3)
        before = divergence(copy, right)
        for _ in range(5):
            for _ in copy.update(used, forward_kl):
                pass
        after.append(divergence(copy, right) / before)
    assert after[0] < 0.5
    assert after[1] > 0.9


def test_an_update_is_the_mean_over_corrections_whatever_the_parts_are(
    draft: Path, recorded: list[list[Any]]
) -> None:
    copy = Trainable(open_checkpoint(draft), 1e-3)
    text, found = recorded[0]
    gradients: list[torch.Tensor] = []
    weight = copy._model.get_parameter("model.layers.1.mlp.down_proj.weight")
    whole = records.examples_of(text, found, 64)
    again = [*whole, *whole]
    for used in (whole, again):
        with torch.enable_grad():
            steps = copy.update(used, forward_kl)
            for _ in used:
                next(steps)
        assert weight.grad is not None
        gradients.append(weight.grad.clone())
        copy._optimizer.zero_grad()
    assert torch.allclose(gradients[0], gradients[1], atol=1e-6)


def test_memory_is_bounded(draft: Path) -> None:
    model = NativeDecoder.load(draft, dtype=torch.float32, threads=1)
    learner = OsdLearner(Osd(requests=2), model, open_checkpoint(draft))
    row = records.TargetRow(torch.arange(4), torch.zeros(5))
    sampler: Any = None
    for _ in range(300):
        request = Request(Prompt(token_ids=(1, 2, 3)), sampler, [4])
        for _ in range(3):
            learner._record(request, records.Correction(3, row))
    assert len(learner._open) == 256
    for one in list(learner._open.values()):
        learner.note(one.request)
    assert not learner._open
    assert len(learner._finished) == 8


def test_what_was_learned_is_stored_and_continued(draft: Path, tmp_path: Path) -> None:
    folder = tmp_path / "learned"
    first = load(draft, "osd(rate=1e-3,requests=2)", learn_folder=folder)
    before = acceptance(first, PROMPTS[:2])
    for _ in range(2):
        acceptance(first, PROMPTS[:2])
    learner_of(first).close()
    stored = load_file(folder / "model.safetensors")
    assert stored.keys() == load_file(draft / "model.safetensors").keys()
    warm = load(draft, "osd", learn_folder=folder)
    plain = load(folder)  # an ordinary draft model
    assert acceptance(warm, PROMPTS[:2]) == acceptance(plain, PROMPTS[:2]) > before + 0.1
    with pytest.raises(CheckpointError, match="holds another model than the draft model"):
        outrider.load("tiny", draft=folder, learn="osd", learn_folder=_other(tmp_path), threads=1)


def _other(root: Path) -> Path:
    return make_checkpoint(root / "other", vocab_size=4096)


def test_on_a_thread_it_learns_while_requests_run(draft: Path, undrafted: Generator) -> None:
    generator = load(draft, "osd(rate=1e-3,requests=1,background=true)")
    learner = learner_of(generator)
    assert texts(generator) == texts(undrafted)
    assert until(lambda: learner.counts["updates"] > 0)
    learner.close()
    learner.swap()
    assert learner.counts["swaps"] > 0
    assert texts(generator) == texts(undrafted)


def test_a_failure_of_training_ends_learning_and_no_request(
    draft: Path, undrafted: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = load(draft, "osd(requests=1)")

    def fail(self: Trainable, example: Example) -> torch.Tensor:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(Trainable, "rows", fail)
    assert texts(generator) == texts(undrafted)
    assert learner_of(generator).off == "RuntimeError: out of memory"
    assert learner_of(generator).counts["updates"] == 0


def test_an_update_that_is_not_finite_is_dropped(draft: Path, recorded: list[list[Any]]) -> None:
    copy = Trainable(open_checkpoint(draft), 1e-3)
    used = examples(recorded)
    before = divergence(copy, used)
    for _ in copy.update(used, lambda target, own: own.sum(-1) * torch.nan):
        pass
    assert divergence(copy, used) == before


def test_a_server_learns_between_requests_and_counts_updates(
    draft: Path, undrafted: Generator
) -> None:
    generator = load(draft, "osd(rate=1e-3,requests=2)")
    how = {"max_new_tokens": 12, "ignore_eos": True}
    desk, plain = Desk(generator), Desk(undrafted)
    for name, ids in zip("abcd", PROMPTS, strict=True):
        for one in (desk, plain):
            one.submit(name, ids, **how)
            one.run()
        assert desk.result(name).token_ids == plain.result(name).token_ids
        while desk.engine._learn():
            pass
    desk.engine.step()
    assert desk.engine.state.counters["learner_updates"] == 2
    assert desk.engine.state.counters["learner_swaps"] == 1  # the second waits for a round


def test_a_server_stores_what_it_learned_when_it_ends(draft: Path, tmp_path: Path) -> None:
    generator = load(draft, "osd(requests=1)", learn_folder=tmp_path / "kept")
    acceptance(generator, PROMPTS[:1])
    engine = Engine(generator, publish=lambda events: None, costs=COSTS)
    engine.start()
    engine.stop()
    assert (tmp_path / "kept" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learn": "osd", "draft": "none", "qualifier": "none"}, "no draft model takes part"),
        ({"learn": "osd", "drafter": "lookup"}, "no draft model takes part"),
        ({"learn": "osd", "draft_vocabulary": 100}, "needs the whole vocabulary"),
        ({"learn": "osdd"}, "unknown learner"),
        ({"learn": "osd(loss=l2)"}, "loss is 'l2'"),
        ({"learn": "osd(rate=0)"}, "rate is 0"),
        ({"learn": "osd(osd)"}, "contains other methods"),
        ({"learn": 3}, "learn is 3"),
        ({"learn_folder": "x"}, "learn names no learner"),
    ],
)
def test_what_cannot_be_learned_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        outrider.load("tiny", threads=1, **options)


def test_a_draft_model_that_is_built_already_is_refused(draft: Path) -> None:
    model = NativeDecoder.load(draft, dtype=torch.float32, threads=1)
    with pytest.raises(OptionError, match="is already built"):
        load(model, "osd")  # pyright: ignore[reportArgumentType]
