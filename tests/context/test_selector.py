"""What must hold of a model that selects, on every runner (the specification's section 4.3)."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from outrider import kernels
from outrider.context.config import ContextConfig
from outrider.context.selector import Selected
from outrider.core.errors import ContextError, OptionError
from outrider.core.types import NO_IDS, LongContext, Passage, Prompt, as_ids
from outrider.decoding import generate
from outrider.drafters import NoDrafter
from outrider.models.cpu.native import NativeDecoder
from outrider.models.llama.decoder import Decoder
from outrider.models.tabular import TabularModel
from outrider.models.transformers.model import TransformersModel
from outrider.protocols import ChainRequest, LanguageModel, Segment
from tests.context.toys import Wandering, long_prompt
from tests.exactness.setups.rigs import generation, outputs, stage
from tests.models.setups.bare import Bare
from tests.models.setups.make_checkpoints import make_checkpoint

pytestmark = pytest.mark.usefixtures("unchecked")

PROMPT = long_prompt(4, chunks=7)
CONFIG = ContextConfig(
    keep_ratio=0.5, refresh=4, hysteresis=0.0, max_swaps=2, recompute="suffix", pin_ends=False
)
RUNNERS: dict[str, Any] = {
    "decoder": lambda path: Decoder.load(path, dtype=torch.float64),
    "transformers": lambda path: TransformersModel.load(path, dtype=torch.float64),
}
if kernels.available():
    RUNNERS["native"] = lambda path: NativeDecoder.load(path, dtype=torch.float32, threads=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: Any) -> Path:
    return make_checkpoint(
        tmp_path_factory.mktemp("model"), "llama", dtype=torch.float64, vocab_size=48, std=0.25
    )


@pytest.fixture(scope="module", params=RUNNERS)
def model(request: Any, folder: Path) -> LanguageModel:
    return RUNNERS[request.param](folder)


@dataclass
class Script:
    """A ranker that prefers what it is told to, one entry a refresh."""

    favourites: list[tuple[int, ...]]
    name: str = "script"
    encoder_name: str | None = None
    encoder: None = None
    refreshes: bool = True
    seen: list[Passage | None] = field(default_factory=list)

    def index(self, context: LongContext) -> "Script":
        self.count = len(context.chunks)
        return self

    def scores(self, query: Passage, recent: Passage | None, mix: float) -> np.ndarray:
        self.seen.append(recent)
        wanted = self.favourites[min(len(self.seen), len(self.favourites)) - 1]
        return np.array([1.0 if i in wanted else -i / self.count for i in range(self.count)])


def next_logits(model: LanguageModel, cache: Any) -> torch.Tensor:
    return model.forward([Segment(cache, NO_IDS)], [as_ids([-1])])[0].logits[0].double()


def write(model: LanguageModel, cache: Any, tokens: list[int]) -> None:
    """Commit tokens one by one, each after a forward, as undrafted decoding does."""
    for token in tokens:
        next_logits(model, cache)
        cache.commit([token])


def fresh_logits(model: LanguageModel, prompt: Prompt, chosen: tuple[int, ...], written: Any):
    """The model over a fresh prefill of these chunks and what was written, places as original."""
    context = prompt.context
    assert context is not None
    starts = context.starts
    whole = (*prompt.token_ids, *written)
    places = [
        *range(starts[0]),
        *(p for i in chosen for p in range(starts[i], starts[i + 1])),
        *range(starts[-1], len(whole)),
    ]
    part = Prompt(token_ids=tuple(whole[p] for p in places), positions=tuple(places))
    [cache] = model.start([part])
    return next_logits(model, cache)


def texts(model: LanguageModel, prompts: Any = (PROMPT,), count: int = 20) -> Any:
    gs = [generation(p, max_new_tokens=count) for p in prompts]
    for _ in generate(stage(model, NoDrafter()), gs):
        pass
    return gs


def test_reading_everything_is_dense_and_never_refreshes(model: LanguageModel) -> None:
    selected = Selected(model, Wandering(), replace(CONFIG, keep_ratio=1.0))
    [dense], [all_read] = texts(model), texts(selected)
    assert all_read.output == dense.output
    assert all_read.sequence.cache.reading.refreshes == 0
    assert all_read.sequence.cache.horizon is None


@pytest.mark.parametrize("positions", ["original", "compact"])
def test_a_refresh_equals_a_fresh_prefill(model: LanguageModel, positions: str) -> None:
    script = Script([(1, 3), (5, 3)])
    config = replace(CONFIG, keep_ratio=0.25, positions=positions)
    selected = Selected(model, script, config)
    [cache] = selected.start([PROMPT])
    written = [7, 8, 9, 10]
    write(selected, cache, written)
    assert cache.selection.chosen == (1, 3) and cache.horizon == 0
    ours = next_logits(selected, cache)
    assert cache.selection.chosen == (3, 5)
    if positions == "original":
        theirs = fresh_logits(model, PROMPT, (3, 5), written)
    else:
        [theirs] = model.start([Prompt(token_ids=tuple(cache.text))])
        theirs = next_logits(model, theirs)
    assert float((ours - theirs).abs().max()) < 1e-4
    assert script.seen[1] == Passage("", tuple(written))


@pytest.mark.parametrize("recompute", ["suffix", "new_only", "partial"])
def test_swaps_that_undo_each_other(model: LanguageModel, recompute: str) -> None:
    """Only what is read again after each change comes back to what it was."""
    script = Script([(1, 3), (5, 3), (1, 3)])
    config = replace(CONFIG, keep_ratio=0.25, recompute=recompute)
    selected = Selected(model, script, config)
    [cache] = selected.start([PROMPT])
    written = [7, 8, 9, 10, 11, 12, 13, 14]
    write(selected, cache, written)
    ours = next_logits(selected, cache)
    assert cache.selection.chosen == (1, 3) and cache.reading.swaps == 2
    theirs = fresh_logits(model, PROMPT, (1, 3), written)
    distance = float((ours - theirs).abs().max())
    assert distance < 1e-4 if recompute == "suffix" else distance > 1e-3


def test_what_is_stale_differs_from_what_is_read_again(model: LanguageModel) -> None:
    logits = {}
    for recompute in ("suffix", "new_only", "partial"):
        config = replace(CONFIG, keep_ratio=0.25, recompute=recompute)
        selected = Selected(model, Script([(1, 3), (0, 3)]), config)
        [cache] = selected.start([PROMPT])
        write(selected, cache, [7, 8, 9, 10])
        logits[recompute] = next_logits(selected, cache)
        assert cache.selection.chosen == (0, 3)
    for one, other in (("suffix", "new_only"), ("suffix", "partial"), ("partial", "new_only")):
        assert float((logits[one] - logits[other]).abs().max()) > 1e-4


@pytest.mark.parametrize("recompute", ["suffix", "new_only", "partial"])
def test_the_budget_holds_at_every_step_and_during_swaps(
    model: Any, recompute: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget, widest = 22, 0
    forward = type(model).forward

    def watched(self: Any, segments: Any, want: Any) -> Any:
        nonlocal widest
        rows = forward(self, segments, want)
        for segment in segments:
            cache = segment.cache
            widest = max(widest, len(cache.text) + cache.num_speculative - written(cache))
        return rows

    def written(cache: Any) -> int:
        return len(live.generated) if live is not None else 0

    live = None
    monkeypatch.setattr(type(model), "forward", watched)
    config = replace(CONFIG, keep_ratio=1.0, budget=budget, recompute=recompute, max_swaps=3)
    selected = Selected(model, Wandering(3), config)
    [live] = selected.start([PROMPT])
    for token in range(3, 35):
        next_logits(selected, live)
        assert live.reading.held_tokens <= budget
        live.commit([token])
    assert live.reading.swaps > 5
    assert widest <= budget
    assert live.reading.kv_tokens <= budget + 32


def test_great_hysteresis_is_static(model: LanguageModel) -> None:
    stubborn = Selected(model, Wandering(), replace(CONFIG, hysteresis=3.0))
    static = Selected(model, Wandering(), replace(CONFIG, refresh=0))
    assert outputs(texts(stubborn)) == outputs(texts(static))
    [g] = texts(stubborn)
    assert g.sequence.cache.reading.swaps == 0 and g.sequence.cache.reading.refreshes == 4


def test_room_is_what_can_still_be_written(folder: Path) -> None:
    """Compact positions leave room for the largest choice; the window is never overrun."""
    model = Decoder.load(folder, dtype=torch.float64)
    prompt = long_prompt(5, chunks=80)
    assert len(prompt) > model.info.context_length
    with pytest.raises(ContextError, match="256"):
        model.start([prompt])
    selected = Selected(model, Wandering(), replace(CONFIG, keep_ratio=0.9))
    [g] = texts(selected, [prompt], count=1000)
    assert str(g.finish) == "length"
    cache = g.sequence.cache
    assert len(cache.text) <= model.info.context_length
    assert len(g.output) >= model.info.context_length // 4
    assert selected.reads(prompt) == cache.longest <= model.info.context_length * 3 // 4


def test_what_does_not_fit_is_said_before_anything_is_read(folder: Path) -> None:
    model = Decoder.load(folder, dtype=torch.float64)
    tight = Selected(model, Wandering(), replace(CONFIG, budget=5))
    with pytest.raises(ContextError, match="instruction takes 5 tokens"):
        tight.start([PROMPT])
    with pytest.raises(ContextError):
        Selected(model, Wandering(), replace(CONFIG, budget=6)).start([PROMPT])
    long_tail = Selected(model, Wandering(), replace(CONFIG, positions="compact"))
    with pytest.raises(ContextError, match=r"limited to 192.*larger context, or shorten"):
        long_tail.start([long_prompt(4, tail=200)])
    with pytest.raises(ContextError, match="no long input"):
        tight.selection(Prompt(token_ids=(1, 2)))


@pytest.mark.parametrize("recompute", ["suffix", "new_only"])
def test_a_long_input_that_ends_the_prompt_is_refused(folder: Path, recompute: str) -> None:
    """What is written would stand behind the last chunk that is read, until another one is."""
    selected = Selected(
        Decoder.load(folder, dtype=torch.float64),
        Wandering(2),
        replace(CONFIG, recompute=recompute),
    )
    with pytest.raises(ContextError, match="no instruction after"):
        selected.start([long_prompt(2, chunks=7, tail=0)])


@pytest.mark.parametrize("start", [-1, 0, 3, 30])
def test_a_long_input_that_the_prompt_does_not_hold_is_refused(folder: Path, start: int) -> None:
    selected = Selected(Decoder.load(folder), Wandering(), CONFIG)
    assert PROMPT.context is not None
    wrong = replace(PROMPT, context=replace(PROMPT.context, start=start))
    with pytest.raises(ContextError, match="differ from ids"):
        selected.start([wrong])


def test_embeddings_and_positions_of_its_own_are_refused_not_dropped(folder: Path) -> None:
    model = Decoder.load(folder)
    selected = Selected(model, Wandering(), CONFIG)
    embeddings = model.embed(as_ids(PROMPT.token_ids))
    for prompt in (
        replace(PROMPT, embeddings=embeddings),
        replace(PROMPT, positions=tuple(range(5, 5 + len(PROMPT)))),
    ):
        with pytest.raises(ContextError, match="cannot hold embeddings"):
            selected.start([prompt])


def test_what_does_not_fit_is_known_before_it_is_read(folder: Path) -> None:
    """`reads` is asked by those who would rather not read than fail."""
    model = Decoder.load(folder)
    assert PROMPT.context is not None
    pinned = replace(PROMPT, context=PROMPT.context.pin(*range(7)))
    with pytest.raises(ContextError, match="7 pinned chunks"):
        Selected(model, Wandering(), replace(CONFIG, budget=14)).reads(pinned)
    with pytest.raises(ContextError, match="smallest chunk"):
        Selected(model, Wandering(), replace(CONFIG, budget=6)).reads(PROMPT)


def test_rows_that_were_written_in_one_go_are_counted(model: LanguageModel) -> None:
    selected = Selected(model, Wandering(), CONFIG)
    [cache] = selected.start([PROMPT])
    sampler = generation(PROMPT).request.sampler
    decoder = selected.chain_decoder
    if decoder is not None:
        written = decoder.write_chains([ChainRequest(Segment(cache, NO_IDS), sampler, (), 3)])
        assert written is not None
        assert len(written[0]) == 3
        assert cache.reading.kv_tokens == cache.reading.held_tokens + 2


def test_what_a_model_can_not_do_is_refused(folder: Path) -> None:
    unsegmented: Any = Bare(Decoder.load(folder, dtype=torch.float64))
    with pytest.raises(OptionError, match="new_only"):
        Selected(unsegmented, Wandering(), replace(CONFIG, recompute="new_only"))
    with pytest.raises(OptionError, match="gaps"):
        Selected(unsegmented, Wandering(), replace(CONFIG, positions="original"))
    with pytest.raises(OptionError, match="compact"):
        model = Decoder.load(folder, dtype=torch.float64)
        Selected(model, Wandering(), replace(CONFIG, recompute="partial", positions="compact"))
    with pytest.raises(OptionError, match="already"):
        Selected(Selected(model, Wandering(), CONFIG), Wandering(), CONFIG)


def test_models_whose_caches_are_closed_read_from_the_first_change_on(folder: Path) -> None:
    model = Decoder.load(folder, dtype=torch.float64)
    plain = Selected(Bare(model), Wandering(), CONFIG)
    opened = Selected(model, Wandering(), replace(CONFIG, positions="compact"))
    assert outputs(texts(plain)) == outputs(texts(opened))
    [g] = texts(plain)
    assert g.sequence.cache.reading.swaps > 2


def test_what_else_a_model_can_do_is_kept(folder: Path) -> None:
    layered = Selected(Decoder.load(folder), Wandering(), CONFIG)
    table = Selected(TabularModel.random(), Wandering(), CONFIG)
    assert layered.layered is not None and table.layered is None
    for model in (layered, table):
        assert model.selector is model and isinstance(model, LanguageModel)


def test_pinned_and_banned_chunks(model: LanguageModel) -> None:
    assert PROMPT.context is not None
    prompt = replace(PROMPT, context=PROMPT.context.pin(2).ban(0, 5))
    selected = Selected(model, Wandering(1), CONFIG)
    [g] = texts(selected, [prompt])
    for decision in g.sequence.cache.selection.decisions:
        assert 2 in decision.chosen and not {0, 5} & set(decision.chosen)
    for chunks in ((1, 6), (0, 1, 2, 4, 5)):
        only = replace(PROMPT, context=PROMPT.context.only(*chunks))
        [g] = texts(selected, [only])
        assert {decision.chosen for decision in g.sequence.cache.selection.decisions} == {chunks}


def test_the_record(model: LanguageModel) -> None:
    [g] = texts(Selected(model, Wandering(2), CONFIG))
    figures = g.sequence.cache.reading.to_dict()
    assert figures["tokens"] == PROMPT.context.num_tokens  # pyright: ignore
    assert figures["chunks"] == 7 and figures["kept_chunks"] == 4
    assert figures["refreshes"] == 4 and figures["swaps"] >= 2
    assert figures["kv_bytes"] == figures["kv_tokens"] * model.info.bytes_per_token  # pyright: ignore
    assert g.counters.reading is g.sequence.cache.reading
    assert g.counters.seconds["refresh"] >= figures["refresh_seconds"] > 0
