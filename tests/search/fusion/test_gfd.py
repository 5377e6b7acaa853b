"""GFD: by a direct computation of every score, where it ends, and with models of their own."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import outrider
from outrider.cli.app import main
from outrider.core.errors import CheckpointError, OptionError
from outrider.models.sources.families import family
from outrider.models.tabular import TabularModel
from outrider.search import Limits, SearchResult, run_search
from outrider.search.beams.beam import BeamSearch
from outrider.search.fusion import gfd as module
from outrider.search.fusion.gfd import Gfd
from outrider.search.fusion.marginal import Marginal, Warp
from outrider.search.fusion.model import ByteModel
from outrider.search.fusion.vocabulary import ByteVocabulary
from outrider.testing.rigs import tabular_family
from outrider.testing.searches import END, LetterCodec, check_search, searched, task
from tests.search.fusion.direct import formula

pytestmark = pytest.mark.method("gfd")

PROMPT = (1, 2, 3)
TOKENS = (
    b"",
    b"b",
    b"c",
    b"d",
    b"e",
    b"f",
    b"g",
    b"bc",
    b"cd",
    b"dbc",
    b"ef",
    b"gg",
    b"bb",
    b"ccf",
)
"""Of the model: letters of the target, and several at once."""
WARP = Warp(1.3, 1.5, 4)


def model(seed: int = 1) -> ByteModel:
    table = TabularModel.random(vocab_size=len(TOKENS), seed=seed)
    return ByteModel(table, ByteVocabulary(TOKENS), (0,))


def gfd(**options: Any) -> Gfd:
    given = {
        "model": model(),
        "weight": 0.5,
        "num_beams": 3,
        "model_temperature": WARP.temperature,
        "model_penalty": WARP.penalty,
        "model_window": WARP.window,
    }
    return Gfd(**{**given, **options})


Text = tuple[int, ...]


def directly(
    target: TabularModel, own: Gfd, most: int, ends: Sequence[int] = (END,)
) -> list[tuple[Text, float]]:
    """The beams with their scores: every text is scored again from its beginning."""
    assert isinstance(own.model, ByteModel)
    other, codec = own.model, LetterCodec()

    def logprob(text: Text) -> float:
        rows = [target.logits_after((*PROMPT, *text[:i])) for i in range(len(text))]
        return sum(float(r.log_softmax(-1)[t]) for r, t in zip(rows, text, strict=True))

    def score(text: Text) -> float:
        seen = codec.decode(text[:-1] if own.late else text).encode()
        chance, length = formula(other, seen, WARP)
        mean = math.log(chance) / length if seen else 0.0
        return (1 - own.weight) * logprob(text) / len(text) + own.weight * mean

    def ended(text: Text) -> bool:
        return len(text) == most or (bool(text) and text[-1] in ends)

    beams: list[tuple[Text, float]] = [((), 0.0)]
    while True:
        found: list[tuple[Text, float]] = []
        for text, value in beams:
            if ended(text):
                found.append((text, value))
                continue
            row = target.logits_after((*PROMPT, *text))
            order = row.argsort(descending=True).tolist()
            tokens = order[:1] if order[0] in ends else [t for t in order if t not in ends]
            new = [(*text, token) for token in tokens[: own.num_beams]]
            found += [(one, score(one)) for one in new]
        beams = sorted(found, key=lambda one: -one[1])[: own.num_beams]
        lengths = [len(text) for text, _ in beams]
        if all(ended(text) for text, _ in beams) or max(lengths) - min(lengths) > own.spread:
            return beams


def compare(found: SearchResult, expected: Sequence[tuple[Text, float]]) -> None:
    assert [one.token_ids for one in found.candidates] == [text for text, _ in expected]
    scores = [one.score for one in found.candidates]
    assert scores == pytest.approx([score for _, score in expected], abs=1e-6)


@pytest.mark.parametrize("late", [True, False])
@pytest.mark.parametrize("weight", [0.0, 0.2, 0.6, 1.0])
def test_texts_and_scores_are_those_of_the_definition(late: bool, weight: float) -> None:
    texts: set[Text] = set()
    for seed in range(3):
        target = tabular_family(seed=seed).target
        own = gfd(late=late, weight=weight, model=model(seed))
        found = searched(own, target, PROMPT, max_new_tokens=7)
        assert isinstance(target, TabularModel)
        compare(found, directly(target, own, 7))
        texts.add(found.best.token_ids)
    assert len(texts) > 1


def test_weight_0_is_a_beam_search_of_the_target() -> None:
    for seed in range(4):
        target = tabular_family(seed=seed).target
        settings: dict[str, Any] = {"max_new_tokens": 10, "ignore_eos": True}
        own = searched(gfd(weight=0.0, num_beams=4), target, PROMPT, **settings)
        beam = searched(BeamSearch(num_beams=4), target, PROMPT, **settings)
        compare(own, [(one.token_ids, one.score) for one in beam.candidates])
        assert own.tokens == beam.tokens  # the model reads nothing


def test_the_model_changes_the_text() -> None:
    target = tabular_family().target
    texts = {
        searched(gfd(weight=weight), target, PROMPT).best.token_ids for weight in (0.0, 0.5, 0.95)
    }
    assert len(texts) > 1


def test_an_end_token_is_taken_only_where_it_is_best_and_then_alone() -> None:
    rows = torch.zeros(7, 7, dtype=torch.float64)
    rows[:, END] = 2.0
    rows[:, 1] = 2.5  # the end is never the best token
    never = searched(gfd(), TabularModel(rows), PROMPT, max_new_tokens=6)
    assert all(END not in one.token_ids for one in never.candidates)
    assert {one.finish_reason for one in never.candidates} == {"length"}
    rows[:, END] = 3.0  # it is always
    always = searched(gfd(), TabularModel(rows), PROMPT, max_new_tokens=6)
    assert [one.token_ids for one in always.candidates] == [(END,)]
    assert always.best.finish_reason == "stop"


def ending(after: int) -> TabularModel:
    """A target that may end after token 2 and goes on with 3 and 4 otherwise, if it writes 1
    first."""
    rows = torch.full((7, 7), -6.0, dtype=torch.float64)
    rows[3, [1, 2]] = 0.0  # after the prompt
    rows[2, END] = rows[1, 4] = rows[4, 5] = rows[5, 4] = 6.0
    rows[6, END] = float(after)
    return TabularModel(rows)


@pytest.mark.parametrize("spread", [2, 5])
def test_it_ends_where_beams_differ_in_length(spread: int) -> None:
    found = searched(
        gfd(weight=0.0, num_beams=2, spread=spread), ending(0), PROMPT, max_new_tokens=12
    )
    lengths = sorted(len(one.token_ids) for one in found.candidates)
    assert lengths == [2, 3 + spread]
    reasons = {len(one.token_ids): one.finish_reason for one in found.candidates}
    assert reasons == {2: "stop", 3 + spread: "unfinished"}
    assert found.stopped == ""


def test_a_text_is_scored_before_its_newest_token() -> None:
    """All continuations of a text share the score of the model, and one reading of it."""
    target = tabular_family(seed=2).target
    settings: dict[str, Any] = {"max_new_tokens": 5, "banned_tokens": (END,)}
    found = searched(gfd(), target, PROMPT, **settings)
    each = searched(gfd(late=False), target, PROMPT, **settings)
    for result, cut in ((found, -1), (each, None)):
        for one in result.candidates:
            text = LetterCodec().decode(one.token_ids[:cut])
            chance, length = formula(model(), text.encode(), WARP)
            assert one.about["model"] == pytest.approx(math.log(chance) / length, abs=1e-6)
            assert one.about["model_tokens"] == length
            logprob = one.logprob
            assert logprob is not None
            assert one.about["target"] == pytest.approx(logprob / 5)
    assert int(str(found.best.about["model_rows"])) < int(str(each.best.about["model_rows"]))


def test_few_rows_are_read_and_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Marginal] = []

    class Recorded(Marginal):
        def __init__(self, *parts: Any, **more: Any) -> None:
            super().__init__(*parts, **more)
            made.append(self)

    monkeypatch.setattr(module, "Marginal", Recorded)
    target = tabular_family(seed=1).target
    found = searched(gfd(), target, PROMPT, max_new_tokens=60, banned_tokens=(END,))
    rows = int(str(found.best.about["model_rows"]))
    assert 20 < rows < 3 * 60  # and not the whole texts at every step
    assert len(made[0]) < 60  # beginnings of dropped beams are not kept
    assert found.cache_rows < 120


def test_the_contract() -> None:
    check_search(partial(gfd, num_beams=2))


def test_a_limit_keeps_what_was_found() -> None:
    target = tabular_family().target
    whole = searched(gfd(), target, PROMPT, ignore_eos=True)
    cut = searched(gfd(), target, PROMPT, ignore_eos=True, limits=Limits(tokens=whole.tokens // 2))
    assert "limit" in cut.stopped and 0 < len(cut.best.token_ids) < 12
    assert cut.best.finish_reason == "unfinished"


def test_a_tokenizer_is_needed() -> None:
    own = task(tabular_family().target, PROMPT)
    own.codec = None
    with pytest.raises(OptionError, match="needs a tokenizer"):
        run_search(gfd(), own, "gfd")


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"weight": 1.5}, "weight is 1.5"),
        ({"num_beams": 0}, "num_beams is 0"),
        ({"model_temperature": 0.0}, "model_temperature is 0"),
        ({"model_penalty": math.inf}, "model_penalty is inf"),
        ({"model_window": -1}, "model_window is -1"),
        ({"spread": -1}, "spread is -1"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, float], problem: str) -> None:
    with pytest.raises(OptionError, match=problem):
        gfd(**options)


# -- models with files ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def generator() -> outrider.Generator:
    return outrider.load(family("tiny")["target"], drafter="none", threads=1)


def test_a_model_is_named_by_its_folder_and_loaded_once(
    generator: outrider.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []
    load = ByteModel.load

    def counted(source: str | Path, *, threads: int | None = None) -> ByteModel:
        loaded.append(f"{source} {threads}")
        return load(source, threads=threads)

    monkeypatch.setattr(module.ByteModel, "load", counted)
    folder = str(family("tiny")["draft"])
    own = Gfd(model=folder, threads=1, num_beams=2)
    first = generator.search(own, "Once upon a time", max_new_tokens=8)
    again = generator.search(own, "Once upon a time", max_new_tokens=8)
    assert loaded == [f"{folder} 1"]
    assert first.best == again.best
    assert own == Gfd(model=folder, threads=1, num_beams=2)
    named = generator.search(
        "gfd", "Once upon a time", model=folder, threads=1, num_beams=2, max_new_tokens=8
    )
    assert named.best == first.best


def test_the_target_itself_finds_its_texts_as_probable(generator: outrider.Generator) -> None:
    """A model that is the target, after the same prompt: the bytes of a text are at least as
    probable as its tokens, and hardly more so where few tokens go on beyond its end."""
    prompt = generator.prompt("Once upon a time")
    other = ByteModel.load(family("tiny")["target"], threads=1)
    own = Gfd(
        model=ByteModel(other.model, other.vocabulary, prompt.token_ids),
        weight=0.3,
        num_beams=3,
        late=False,
        **plain(),
    )
    found = generator.search(own, prompt, max_new_tokens=12, ignore_eos=True)
    assert len(found.candidates) == 3
    for one in found.candidates:
        tokens, rest = other.vocabulary.encode(one.text.encode())
        assert tokens == one.token_ids and not rest
        total = float(str(one.about["model"])) * int(str(one.about["model_tokens"]))
        assert one.logprob is not None
        assert one.logprob - 0.01 <= total <= one.logprob + 1.0


def plain() -> dict[str, float]:
    """The model's distribution as it is."""
    return {"model_temperature": 1.0, "model_penalty": 1.0}


def test_the_context_is_read_first(generator: outrider.Generator) -> None:
    other = ByteModel.load(family("tiny")["draft"], threads=1)
    own = Gfd(model=other, weight=0.9, **plain())
    texts = [
        generator.search(replace(own, context=context), "The", max_new_tokens=6).candidates
        for context in ("", "Once there was a dog. The")
    ]
    assert texts[0][0].about["model"] != texts[1][0].about["model"]


def test_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    folder, options = family("tiny")["draft"], "num_beams=2,threads=1,weight=0.1"
    words = ["generate", "Once upon a time", "--max-new-tokens", "5", "--json", "--threads", "1"]
    assert main([*words, "--search", f"gfd(model={folder},{options})"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["strategy"] == "gfd" and len(found["candidates"]) == 2
    assert found["candidates"][0]["about"]["model_rows"] > 0
    assert main([*words, "--search", "gfd"]) == 2
    assert "option model of 'gfd' is not given" in capsys.readouterr().err


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        searched(Gfd(model=str(tmp_path)), tabular_family().target, PROMPT)
