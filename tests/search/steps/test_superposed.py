"""Superposed Decoding."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from outrider.core.errors import OptionError, VocabularyError
from outrider.core.types import IntArray, Prompt, Rows
from outrider.memories.corpus import Corpus
from outrider.memories.interpolated import Interpolated
from outrider.memories.store import StorePage
from outrider.models.caches.prefill import start_caches
from outrider.models.llama.decoder import Decoder
from outrider.models.tabular import TabularCache, TabularModel
from outrider.protocols import Cache, Segment
from outrider.search import Limits, run_search
from outrider.search.account import Account
from outrider.search.steps.superposed import UNSEEN, Draft, Superposed
from outrider.search.task import Task
from outrider.search.tree import TokenTree
from outrider.testing.rigs import tabular_family
from outrider.testing.searches import END, LETTERS, LetterCodec, check_search, searched, task
from tests.models.heads.setups import make_target

pytestmark = pytest.mark.method("superposed")

VOCAB, PROMPT = 7, (1, 2, 3, 1, 2, 3)


class MixedCache(TabularCache):
    """A cache that stores the inputs that are no tokens, by their rows."""

    def __init__(self, context_length: int) -> None:
        super().__init__(context_length)
        self.mixed: dict[int, Tensor] = {}


class MixingTable(TabularModel):
    """A table whose inputs are distributions of tokens: the logits after a mean are the mean."""

    def __init__(self, table: Tensor, **more: object) -> None:
        super().__init__(table)
        self.info = replace(self.info, reads_prompts=True)

    def embed(self, token_ids: Sequence[int] | IntArray) -> Tensor:
        return torch.eye(self.info.vocab_size, dtype=torch.float64)[[int(t) for t in token_ids]]

    def start(
        self, prompts: Sequence[Prompt], reuse: Sequence[Cache | None] | None = None
    ) -> list[TabularCache]:
        return start_caches(self, prompts, None, lambda: MixedCache(self.info.context_length))

    def forward(self, segments: Sequence[Segment], want: Sequence[IntArray]) -> list[Rows]:
        out: list[Rows] = []
        for segment, rows in zip(segments, want, strict=True):
            cache = segment.cache
            assert isinstance(cache, MixedCache)
            first = cache.num_speculative
            cache.feed(segment, rows)
            for i, token in enumerate(segment.tokens.tolist()):
                if token < 0:
                    assert segment.prompts is not None
                    cache.mixed[first + i] = segment.prompts[-1 - token]
            logits = [self.after(self.inputs(cache, int(row))) for row in rows]
            out.append(Rows(torch.stack(logits) if logits else torch.empty(0, VOCAB)))
        return out

    def inputs(self, cache: MixedCache, row: int) -> list[Tensor]:
        found: list[Tensor] = []
        while row >= 0:
            token = cache._tokens[row]
            found.append(cache.mixed[row] if token < 0 else self.embed([token])[0])
            row = cache._parents[row]
        return [*self.embed(cache.text), *reversed(found)]

    def after(self, inputs: Sequence[Tensor]) -> Tensor:
        a, b = ([self.embed([0])[0]] * 2 + list(inputs))[-2:]
        return torch.einsum("a,b,abv->v", a, b, self.table)


def mixing(seed: int) -> MixingTable:
    model = tabular_family(seed=seed).target
    assert isinstance(model, TabularModel)
    return MixingTable(model.table)


def grams(weights: tuple[float, ...] = (0.2, 0.3)) -> Interpolated:
    generator = torch.Generator().manual_seed(1)
    texts = torch.randint(1, VOCAB, (6, 30), generator=generator).tolist()
    return Interpolated(Corpus.build(texts), weights)


Text = tuple[tuple[int, ...], float]


def reference(
    model: MixingTable,
    places: int,
    k: int,
    r: int,
    temperature: float,
    alpha: float,
    counts: Interpolated | None,
) -> list[Text]:
    """The algorithm of the paper, over the whole `[k * vocab]`, without a cache and without an
    early stop."""
    running: list[Text] = [((), 0.0)]
    ended: list[Text] = []
    inputs = list(model.embed(PROMPT))
    for _ in range(places):
        p = torch.softmax(model.after(inputs) / temperature, -1)
        allowed = p.topk(r).indices.tolist()
        cand: list[Text] = []
        for text, score in running:
            for token in allowed:
                s = float((p[token] / p[allowed].sum()).log())
                if counts is not None and alpha:
                    [q] = counts.probs([*PROMPT, *text], [token])
                    s = (1 - alpha) * s + (alpha * float(torch.tensor(q).log()) if q else UNSEEN)
                cand.append(((*text, token), score + s))
        cand = sorted(cand, key=lambda one: -round(one[1], 9))[: 2 * k]  # sums may tie
        ended += [one for one in cand[:k] if one[0][-1] == END]
        running = [one for one in cand if one[0][-1] != END][:k]
        w = torch.softmax(torch.tensor([score for _, score in running], dtype=torch.float64), 0)
        inputs.append(w @ model.embed([text[-1] for text, _ in running]))
    return sorted([*ended, *running], key=lambda one: -one[1])[:k]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("alpha", [0.0, 0.54])
@pytest.mark.parametrize(("k", "temperature"), [(1, 0.5), (2, 0.3), (3, 1.0), (3, 0.1)])
def test_drafts_are_those_of_the_paper(seed: int, alpha: float, k: int, temperature: float) -> None:
    model, counts = mixing(seed), grams()
    search = Superposed(drafts=k, temperature=temperature, tokens=6, alpha=alpha, counts=counts)
    found = searched(search, model, PROMPT, max_new_tokens=7)
    expected = reference(model, 7, k, 6, temperature, alpha, counts)
    assert [one.token_ids for one in found.candidates] == [text for text, _ in expected]
    assert [one.score for one in found.candidates] == pytest.approx([s for _, s in expected])


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_the_number_of_forwards_and_rows_does_not_depend_on_the_drafts(k: int) -> None:
    found = searched(
        Superposed(drafts=k, temperature=1.0), mixing(2), PROMPT, max_new_tokens=9, ignore_eos=True
    )
    assert found.forwards == found.tokens == 9
    assert found.cache_rows == len(PROMPT) + 8
    assert len(found.candidates) == k


@pytest.mark.parametrize("temperature", [0.06, 1.0, 3.0])
def test_one_draft_without_n_grams_is_greedy_decoding(temperature: float) -> None:
    for seed in range(4):
        model = mixing(seed)
        found = searched(Superposed(drafts=1, temperature=temperature), model, PROMPT)
        own: list[int] = []
        while len(own) < 12 and own[-1:] != [END]:
            own.append(int(model.logits_after((*PROMPT, *own)).argmax()))
        assert list(found.best.token_ids) == own


def test_one_draft_with_n_grams_is_greedy_on_the_mixed_scores() -> None:
    model, counts = mixing(0), grams()
    found = searched(
        Superposed(drafts=1, temperature=0.7, alpha=0.4, tokens=5, counts=counts),
        model,
        PROMPT,
        banned_tokens=(END,),
    )
    text = list(PROMPT)
    for token in found.best.token_ids:
        logits = model.logits_after(text).clone()
        logits[END] = -torch.inf
        best, ids = torch.log_softmax(logits / 0.7, -1).topk(5)
        best = torch.log_softmax(best, -1)
        q = torch.from_numpy(counts.probs(text, ids.tolist()))
        scores = torch.where(q > 0, 0.6 * best + 0.4 * q.log(), 0.6 * best + UNSEEN)
        assert token == int(ids[scores.argmax()])
        text.append(token)


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched(Superposed):
    """Notes the drafts of each place."""

    seen: list[list[Draft]] = field(default_factory=list[list[Draft]])

    def chosen(
        self,
        task: Task,
        counts: Interpolated | None,
        logits: Tensor,
        running: Sequence[Draft],
    ) -> tuple[list[Draft], list[Draft]]:
        going, ended = Superposed.chosen(self, task, counts, logits, running)
        self.seen.append([*going, *ended])
        return going, ended


@pytest.mark.parametrize("counts", [None, grams()])
def test_drafts_are_distinct_and_scores_never_rise(counts: Interpolated | None) -> None:
    for seed, k in itertools.product(range(3), (2, 4)):
        search = Watched(drafts=k, temperature=0.8, counts=counts)
        searched(search, mixing(seed), PROMPT, ignore_eos=True)
        before: dict[tuple[int, ...], float] = {(): 0.0}
        for place, drafts in enumerate(search.seen):
            assert len({one.tokens for one in drafts}) == len(drafts) == k
            assert all(len(one.tokens) == place + 1 for one in drafts)
            assert all(one.score <= before[one.tokens[:-1]] + 1e-12 for one in drafts)
            before = {one.tokens: one.score for one in drafts}


def test_weights_sum_to_one_and_follow_the_scores() -> None:
    search = Superposed()
    for scores in ([-3.0], [-1.0, -2.0, -2.5], [-4000.0, -4001.0], [-600.0, -1.0]):
        weights = search.weights([Draft((1,), score) for score in scores])
        assert float(weights.sum()) == pytest.approx(1.0)
        expected = torch.tensor(scores, dtype=torch.float64).diff()
        assert weights.log().diff().tolist() == pytest.approx(expected.tolist())


def test_the_first_place_has_one_draft_and_reads_the_prompt_as_it_is() -> None:
    model = mixing(1)
    found = searched(
        Superposed(drafts=3, temperature=1.0), model, PROMPT, max_new_tokens=1, ignore_eos=True
    )
    best = model.logits_after(PROMPT).topk(3).indices.tolist()
    assert [one.token_ids for one in found.candidates] == [(token,) for token in best]


def test_a_draft_with_all_the_weight_is_read_as_its_token(tmp_path: Path) -> None:
    model = Decoder.load(make_target(tmp_path / "target"), dtype=torch.float64)
    own: list[Tensor] = []
    for drafts in ([Draft((7,), 0.0)], [Draft((7,), 0.0), Draft((9,), -1e6)]):
        [cache] = model.start([Prompt(token_ids=(3, 1, 4))])
        tree = TokenTree(model, cache, Account())
        tree.first()
        node, first = Superposed().read(tree, tree.root, drafts, model.embed)
        _, second = Superposed().read(tree, node, [Draft((2,)), Draft((5,))], model.embed)
        own.append(torch.stack((first, second)))
    torch.testing.assert_close(own[0], own[1], rtol=0, atol=1e-10)


def test_a_mean_of_two_tokens_is_read_as_the_mean_of_their_embeddings(tmp_path: Path) -> None:
    """Compared with a prompt that is given as embeddings."""
    model = Decoder.load(make_target(tmp_path / "target"), dtype=torch.float64)
    [cache] = model.start([Prompt(token_ids=(3, 1, 4))])
    tree = TokenTree(model, cache, Account())
    tree.first()
    drafts = [Draft((7,), -1.0), Draft((9,), -2.0)]
    node, _ = Superposed().read(tree, tree.root, drafts, model.embed)
    _, [logits] = tree.extend([(node, 5)])
    share = 1 / (1 + torch.exp(torch.tensor(-1.0, dtype=torch.float64)))
    rows = model.embed([3, 1, 4, 7, 9, 5])
    mixed = share * rows[3] + (1 - share) * rows[4]
    given = torch.cat((rows[:3], mixed[None], rows[5:]))
    [other] = model.start([Prompt(token_ids=(3, 1, 4, 7, 5), embeddings=given)])
    expected = TokenTree(model, other, Account()).first()
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-10)


def test_the_contract_holds_with_several_drafts() -> None:
    check_search(lambda: Superposed(drafts=3, temperature=0.7), model_of=mixing)
    check_search(lambda: Superposed(drafts=2, corpus="prompt"), model_of=mixing)


def test_n_grams_come_from_a_file_a_store_or_the_prompt(tmp_path: Path) -> None:
    texts = ["bcdbcdbcee", "dcbdcb"]
    lines = [f'{{"text": "{text}"}}' for text in texts]
    (tmp_path / "texts.jsonl").write_text("\n".join(lines), encoding="utf-8")
    ids = [[LETTERS.index(letter) for letter in text] for text in texts]
    corpus = Corpus.build(ids)
    page = StorePage(kind="rest", fingerprint="", vocab_size=VOCAB, tokens=16, documents=2)
    corpus.write(tmp_path / "store", page)
    given = Superposed(temperature=1.0, counts=Interpolated(corpus))
    expected = searched(given, mixing(0), PROMPT).candidates
    assert expected != searched(Superposed(temperature=1.0), mixing(0), PROMPT).candidates
    for name in ("texts.jsonl", "store"):
        search = Superposed(temperature=1.0, corpus=str(tmp_path / name))
        assert searched(search, mixing(0), PROMPT).candidates == expected
    own = Superposed(temperature=1.0, counts=Interpolated(Corpus.build([PROMPT])))
    prompt = Superposed(temperature=1.0, corpus="prompt")
    assert (
        searched(prompt, mixing(0), PROMPT).candidates
        == searched(own, mixing(0), PROMPT).candidates
    )


class Other(LetterCodec):
    """A tokenizer that names itself."""

    fingerprint = "other"


def test_a_store_of_another_tokenizer_is_refused(tmp_path: Path) -> None:
    page = StorePage(kind="rest", fingerprint="own", vocab_size=VOCAB, tokens=3, documents=1)
    Corpus.build([[1, 2, 3]]).write(tmp_path / "store", page)
    own = task(mixing(0), PROMPT)
    own.codec = Other()
    with pytest.raises(VocabularyError):
        run_search(Superposed(corpus=str(tmp_path / "store")), own, "test")


def test_without_a_share_n_grams_are_not_read(tmp_path: Path) -> None:
    plain = searched(Superposed(temperature=1.0), mixing(0), PROMPT).candidates
    for search in (
        Superposed(temperature=1.0, alpha=0.0, counts=grams()),
        Superposed(temperature=1.0, alpha=0.0, corpus=str(tmp_path / "absent")),
    ):
        assert searched(search, mixing(0), PROMPT).candidates == plain


def test_penalties_read_the_text_of_each_draft() -> None:
    """A bias changes all drafts alike; the same bias by a processor of the text is the same."""
    seen: list[list[int]] = []

    def processor(ids: Tensor, scores: Tensor) -> Tensor:
        seen.append(ids[0].tolist())
        scores = scores.clone()
        scores[0, 2] += 1.0
        return scores

    search = Superposed(temperature=1.0)
    plain = searched(search, mixing(0), PROMPT, logit_bias={2: 1.0}, max_new_tokens=4)
    found = searched(search, mixing(0), PROMPT, logits_processors=(processor,), max_new_tokens=4)
    assert found.candidates == plain.candidates
    assert [len(ids) - len(PROMPT) for ids in seen] == [0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert len({tuple(ids) for ids in seen[1:]}) == 9


def test_what_cannot_be_mixed_is_refused() -> None:
    with pytest.raises(OptionError, match="mixes embeddings"):
        searched(Superposed(), tabular_family(seed=0).target, PROMPT)
    with pytest.raises(OptionError):
        searched(Superposed(corpus="no/such/file"), mixing(0), PROMPT)


@pytest.mark.parametrize(
    "options", [{"drafts": 0}, {"temperature": 0.0}, {"tokens": 0}, {"alpha": 1.5}]
)
def test_options_outside_their_ranges(options: dict[str, float]) -> None:
    with pytest.raises(OptionError):
        Superposed(**options)  # pyright: ignore[reportArgumentType]


def test_drafts_that_a_limit_has_stopped_are_unfinished() -> None:
    found = searched(
        Superposed(drafts=3), mixing(0), PROMPT, limits=Limits(tokens=4), ignore_eos=True
    )
    assert [one.finish_reason for one in found.candidates] == ["unfinished"] * 3
    assert {len(one.token_ids) for one in found.candidates} == {4}


def test_only_a_corpus_besides_the_prompt_is_a_file() -> None:
    assert Superposed(corpus="/tmp").reads_files
    assert not Superposed(corpus="prompt").reads_files and not Superposed().reads_files
