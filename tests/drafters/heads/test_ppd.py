"""Parallel prompt decoding (arXiv 2405.18628): rows of prompt tokens beside drafts."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from outrider.acceptance import Match
from outrider.core.errors import CheckpointError, OptionError, StrategyError, VocabularyError
from outrider.core.types import Budget, Draft, Prompt, Verdict, Verified, as_ids
from outrider.decoding import Generation, generate
from outrider.drafters.combine.merge import Merge
from outrider.drafters.copying.lookup import Lookup
from outrider.drafters.given import Costs, Given
from outrider.drafters.heads.ppd import METHOD, Ppd
from outrider.drafters.heads.prompt_tokens import FORMAT, KIND, PromptTokens, to_tensors
from outrider.drafters.heads.prompted import PromptState
from outrider.kernels import available
from outrider.models.caches.attaching import attach
from outrider.models.cpu.native import NativeDecoder
from outrider.models.llama.decoder import Decoder
from outrider.policies import CostSurface, FixedTree
from outrider.protocols import Drafter, LanguageModel, Needs, Request, Segment
from outrider.sampling import Sampler, SamplingParams
from outrider.strategy import Strategy
from outrider.testing.rigs import tabular_family
from outrider.training.core.state import save_tensors, write_json
from tests.models.setups.make_checkpoints import make_checkpoint

pytestmark = [pytest.mark.method("ppd"), pytest.mark.usefixtures("unchecked")]

TEXT = tuple(range(40, 60))
VOCAB = 288
RATES = torch.tensor([[0.4, 0.2, 0.1], [0.3, 0.1, 0.05]])
compiled = pytest.mark.skipif(not available(), reason="no compiled kernels")
RUNNERS = ["readable", pytest.param("compiled", marks=compiled)]
Runners = Callable[[str], LanguageModel]


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Runners:
    """A random model with a window of 256, and a layer that reads 8 positions."""
    source = make_checkpoint(
        tmp_path_factory.mktemp("ppd") / "small",
        "gemma3",
        sliding_window=8,
        layer_types=["sliding_attention", "full_attention"],
    )

    @cache
    def loaded(name: str) -> LanguageModel:
        if name == "readable":
            return Decoder.load(source)
        return NativeDecoder.load(source, dtype=torch.float32, threads=1)

    return loaded


@cache
def untrained(copies: int = 1) -> PromptTokens:
    """Two prompt tokens with random embeddings."""
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(2, copies, 32, generator=generator)
    return PromptTokens(table=table, rates=RATES, vocab_size=VOCAB)


def draft(copies: int = 1) -> Draft:
    """Tokens 70 71 72, 80 beside 71, and prompt tokens below the text, 70 and 72."""
    tokens, parents, probe = [70, 71, 72, 80], [-1, 0, 1, 0], [False] * 4
    for node in (-1, 0, 2):
        last = [node] * copies
        for prompt in range(2):
            for copy in range(copies):
                tokens.append(untrained(copies).row_id(prompt, copy))
                parents.append(last[copy])
                probe.append(True)
                last[copy] = len(tokens) - 1
    return Draft(
        tokens=as_ids(tokens),
        parents=as_ids(parents),
        sources=("ppd",) * len(tokens),
        probe=np.array(probe),
        prompts=untrained(copies).rows,
    )


def verified(target: LanguageModel, asked: Draft) -> Tensor:
    """The logits after the text and after each node."""
    [own] = target.start([Prompt(token_ids=TEXT)])
    segment, want = attach(own, as_ids(()), asked)
    return target.forward([segment], [want])[0].logits


def written(
    drafter: Drafter | None, target: LanguageModel, ids: tuple[int, ...], **how: Any
) -> Any:
    params = SamplingParams(**{"max_new_tokens": 24, "seed": 3, **how})
    strategy = Strategy(
        target=target,
        **({} if drafter is None else {"drafter": drafter, "policy": FixedTree(depth=8, nodes=16)}),
        rule=Match(),
    )
    ends = target.info.end_ids
    sampler = Sampler(params, prompt_ids=ids, end_ids=ends)
    generation = Generation(Request(Prompt(token_ids=ids), sampler))
    for _ in generate(strategy.stage, [generation]):
        pass
    return generation


@pytest.mark.parametrize("name", RUNNERS)
def test_tokens_do_not_read_prompt_tokens(name: str, runner: Runners) -> None:
    whole = draft()
    alone = whole.only(as_ids(range(4)))
    without = verified(runner(name), Draft(**{**_fields(alone), "prompts": None, "probe": None}))
    beside = verified(runner(name), whole)[:5]
    if name == "compiled":
        assert torch.equal(beside, without)
    torch.testing.assert_close(beside, without, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", RUNNERS)
def test_prompt_tokens_read_their_own_path_alone(name: str, runner: Runners) -> None:
    target, rows = runner(name), verified(runner(name), draft())
    for node, before in ((4, ()), (6, (70,)), (8, (70, 71, 72))):
        alone = _chain_rows(target, (*TEXT, *before))
        torch.testing.assert_close(rows[node + 1 : node + 3], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", RUNNERS)
def test_prompt_tokens_are_read_as_embeddings(name: str, runner: Runners) -> None:
    """The same embeddings in a prompt give the same rows."""
    target, table = runner(name), untrained().rows
    assert target.embed is not None
    given = torch.cat((target.embed(TEXT), table, target.embed([5])))
    [own] = target.start([Prompt(token_ids=(*TEXT, 7, 7, 5), embeddings=given)])
    [other] = target.start([Prompt(token_ids=TEXT)])
    segment = Segment(other, as_ids((-1, -2, 5)), prompts=table)
    [rows] = target.forward([segment], [as_ids((2,))])
    [true] = target.forward([Segment(own, as_ids(()))], [as_ids((-1,))])
    torch.testing.assert_close(rows.logits, true.logits, rtol=1e-4, atol=1e-4)


def _chain_rows(target: LanguageModel, ids: tuple[int, ...]) -> Tensor:
    [own] = target.start([Prompt(token_ids=ids)])
    segment = Segment(own, as_ids((-1, -2)), prompts=untrained().rows)
    return target.forward([segment], [as_ids((0, 1))])[0].logits


def _fields(asked: Draft) -> dict[str, Any]:
    return {name: getattr(asked, name) for name in asked.__dataclass_fields__}


@pytest.mark.parametrize("name", RUNNERS)
def test_prompt_tokens_are_never_committed(name: str, runner: Runners) -> None:
    target, whole = runner(name), draft()
    [own] = target.start([Prompt(token_ids=TEXT)])
    segment, want = attach(own, as_ids(()), whole)
    target.forward([segment], [want])
    own.commit(as_ids((70, 71, 99)))
    assert tuple(own.text) == (*TEXT, 70, 71, 99) and tuple(own.pending) == (99,)
    [after] = target.forward([Segment(own, as_ids(()))], [as_ids((-1,))])
    [fresh] = target.start([Prompt(token_ids=(*TEXT, 70, 71, 99))])
    [true] = target.forward([Segment(fresh, as_ids(()))], [as_ids((-1,))])
    torch.testing.assert_close(after.logits, true.logits, rtol=1e-4, atol=1e-4)


def test_without_embeddings_negative_ids_are_refused(runner: Runners) -> None:
    for name in ("readable", "compiled") if available() else ("readable",):
        [own] = runner(name).start([Prompt(token_ids=TEXT)])
        with pytest.raises((IndexError, RuntimeError)):
            runner(name).forward([Segment(own, as_ids((-1,)))], [as_ids((0,))])


@pytest.mark.parametrize("copies", [1, 2])
def test_guesses_are_those_of_the_rows_below_the_last_kept_node(
    copies: int, runner: Runners
) -> None:
    target, whole = runner("readable"), draft(copies)
    [own] = target.start([Prompt(token_ids=TEXT)])
    segment, want = attach(own, as_ids(()), whole)
    [rows] = target.forward([segment], [want])
    drafter = Ppd(prompts=untrained(copies))
    expected = {(): 4, (0,): 4 + 2 * copies, (0, 1, 2): 4 + 4 * copies, (0, 1): None, (0, 3): None}
    for path, first in expected.items():
        state = PromptState(frozenset())
        verdict = Verdict(path=path, tokens=(0,) * len(path), next_token=5)
        drafter.observe([state], [Verified("target", as_ids(()), whole, rows, verdict)])
        if first is None:
            assert state.guesses == []
            continue
        logits = rows.logits[first + 1 : first + 1 + 2 * copies].view(2, copies, -1).mean(1)
        assert state.guesses == logits.topk(3).indices.tolist()


def test_a_tree_is_made_of_guesses_and_then_of_prompt_tokens() -> None:
    drafter = Ppd(prompts=untrained(), nodes=12)
    assert drafter.plan is not None
    [first] = drafter.propose([PromptState(frozenset())], [as_ids(())], [Budget(depth=8, nodes=16)])
    assert first.tokens.tolist() == [-1, -2] and first.num_probes == 2
    state = PromptState(frozenset({31}), [[30, 31, 32], [40, 41, 42]])
    [tree] = drafter.propose([state], [as_ids(())], [Budget(depth=8, nodes=16)])
    assert tree.probe is not None and len(tree) <= 12
    kept = [n for n in range(len(tree)) if not tree.probe[n]]
    assert {30, 31, 40} <= set(tree.tokens[kept].tolist())
    assert all(tree.tokens[n] != 31 or n not in tree.parents[kept] for n in kept)  # an end token
    assert state.guesses == []  # they are used once
    for depth, nodes in ((1, 16), (2, 3), (8, 1), (0, 0)):
        state = PromptState(frozenset(), [[30, 31, 32], [40, 41, 42]])
        [small] = drafter.propose([state], [as_ids(())], [Budget(depth=depth, nodes=nodes)])
        assert len(small) <= nodes
    [inner] = drafter.propose(
        [PromptState(frozenset())], [as_ids((5,))], [Budget(depth=8, nodes=16)]
    )
    assert not len(inner)


@pytest.mark.parametrize(
    "how",
    [{}, {"temperature": 0.9, "top_p": 0.9}, {"temperature": 0.7, "repetition_penalty": 1.3}],
)
@pytest.mark.parametrize("copies", [1, 2])
def test_the_text_is_that_of_the_target(how: dict[str, Any], copies: int, runner: Runners) -> None:
    target = runner("compiled" if available() else "readable")
    drafted = written(Ppd(prompts=untrained(copies)), target, TEXT, **how)
    assert drafted.output == written(None, target, TEXT, **how).output
    assert drafted.counters.probed and drafted.counters.drafted


def test_edges(runner: Runners) -> None:
    target = runner("readable")
    for ids in ((5,), tuple(range(2, 252))):  # one token; a window that is almost full
        drafted, own = written(Ppd(prompts=untrained()), target, ids), written(None, target, ids)
        assert drafted.output == own.output
    text = written(None, target, TEXT).output
    stopped = {"stop_token_ids": (text[7],)}
    drafted = written(Ppd(prompts=untrained()), target, TEXT, **stopped)
    assert drafted.output == written(None, target, TEXT, **stopped).output


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_tensors(tmp_path / f"{KIND}.safetensors", to_tensors(untrained()))
    facts = {"format": FORMAT, "vocab_size": untrained().vocab_size}
    write_json(tmp_path / f"{KIND}.json", facts)
    return tmp_path


def test_beside_another_drafter(runner: Runners) -> None:
    target = runner("compiled" if available() else "readable")
    merged = Merge(first=Lookup(min_ngram=1), second=Ppd(prompts=untrained()))
    ids = TEXT * 3
    drafted = written(merged, target, ids)
    assert drafted.output == written(None, target, ids).output
    assert drafted.counters.probed and drafted.counters.sources.get("ppd", 0) >= 0


def test_measured_times_set_the_trees(folder: Path, runner: Runners) -> None:
    sizes: list[int] = []
    for seconds in ({1: 1e-3, 64: 1e-3}, {1: 1e-3, 64: 64e-3}):
        costs = Costs(target=CostSurface.of(seconds), overhead=0.0)
        given = Given(target=runner("readable"), costs=costs)
        made = METHOD.drafter(given, (), {"prompts": str(folder)})
        assert isinstance(made, Ppd)
        budget = Budget(depth=8, nodes=64)
        [first] = made.propose([PromptState(frozenset())], [as_ids(())], [budget])
        sizes.append(len(first))
    assert sizes == [2, 0]  # where rows cost as much as rounds, nothing is drafted


def test_wrong_targets_and_files_are_refused(folder: Path, runner: Runners) -> None:
    target = runner("readable")
    tokens = untrained()
    narrow = PromptTokens(table=tokens.table[..., 1:], rates=RATES, vocab_size=tokens.vocab_size)
    with pytest.raises(StrategyError, match="numbers each"):
        narrow.check_target(target)
    with pytest.raises(VocabularyError, match="expect 7 tokens"):
        PromptTokens(table=tokens.table, rates=RATES, vocab_size=7).check_target(target)
    with pytest.raises(StrategyError, match="does not read"):
        tokens.check_target(tabular_family().target)
    with pytest.raises(StrategyError, match="without a qualifier"):
        Ppd(prompts=tokens).bind(Needs(), 2)
    with pytest.raises(OptionError, match="nodes is 0"):
        Ppd(prompts=tokens, nodes=0)
    with pytest.raises(OptionError, match="not finite"):
        PromptTokens(table=tokens.table * torch.nan, rates=RATES, vocab_size=VOCAB)
    save_tensors(folder / f"{KIND}.safetensors", to_tensors(tokens) | {"rates": RATES + 1})
    with pytest.raises(CheckpointError, match="not shares"):
        PromptTokens.read(folder)
    save_tensors(folder / f"{KIND}.safetensors", {"rates": RATES})
    with pytest.raises(CheckpointError, match="no tensor 'table'"):
        PromptTokens.read(folder)
