"""`outrider.generate` writes what `model.generate` writes."""

import copy
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    EosTokenCriteria,
    LogitsProcessorList,
    MaxLengthCriteria,
    NoRepeatNGramLogitsProcessor,
    PreTrainedModel,
    RepetitionPenaltyLogitsProcessor,
    TextStreamer,
)

import outrider
from outrider.core.errors import LogitsError, OptionError
from outrider.engine.generator import Generator
from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.models.tabular import TabularModel
from tests.models.setups.built import RUNS, build
from tests.models.setups.make_checkpoints import write_tokenizer

pytestmark = pytest.mark.usefixtures("unchecked")

END, PAD = 7, 3
KINDS = ("llama", "gpt2")


@cache
def built(kind: str) -> PreTrainedModel:
    model = build(*RUNS[kind]).double()  # pyright: ignore[reportCallIssue]
    model.generation_config.eos_token_id = None
    return model


@cache
def assistant(kind: str) -> PreTrainedModel:
    """The same model, shaken: it often agrees."""
    model = copy.deepcopy(built(kind))
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight += 0.15 * weight.std() * torch.randn(weight.shape, generator=noise)
    return model


def with_config(kind: str, **settings: Any) -> PreTrainedModel:
    """The model with a generation configuration of its own; the weights are shared."""
    model = copy.copy(built(kind))
    model.generation_config = copy.deepcopy(model.generation_config)
    for name, value in settings.items():
        setattr(model.generation_config, name, value)
    return model


def theirs(model: Any, ids: torch.Tensor, **options: Any) -> list[list[int]]:
    options = {"attention_mask": torch.ones_like(ids), "do_sample": False, **options}
    if model.generation_config.pad_token_id is None:
        options.setdefault("pad_token_id", PAD)
    return model.generate(ids, **options).tolist()


def ours(model: Any, ids: Any, **options: Any) -> list[list[int]]:
    return outrider.generate(model, ids, **options).tolist()


ONE = torch.tensor([[5, 9, 40, 3]])
BATCH = torch.tensor([[PAD, PAD, 5, 9, 40], [11, 12, 13, 14, 15], [PAD, PAD, PAD, PAD, 7]])
MASK = (torch.arange(5) >= torch.tensor([[2], [0], [4]])).long()


@pytest.mark.parametrize("drafted", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_one_prompt(kind: str, drafted: bool) -> None:
    draft = assistant(kind) if drafted else None
    expected = theirs(built(kind), ONE, max_new_tokens=16)
    assert ours(built(kind), ONE, assistant_model=draft, max_new_tokens=16) == expected


@pytest.mark.parametrize("drafted", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_padded_on_the_left(kind: str, drafted: bool) -> None:
    """Prompts keep their padding, as slices `out[:, inputs.shape[1]:]` expect."""
    draft = assistant(kind) if drafted else None
    model = built(kind)
    expected = theirs(model, BATCH, attention_mask=MASK, max_new_tokens=10)
    got = ours(
        model,
        BATCH,
        attention_mask=MASK,
        assistant_model=draft,
        max_new_tokens=10,
        pad_token_id=PAD,
    )
    assert got == expected


def test_the_assistant_really_drafts(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    result = Generator.result
    monkeypatch.setattr(Generator, "result", lambda *args: seen.append(result(*args)) or seen[-1])
    ours(built("llama"), ONE, assistant_model=assistant("llama"), max_new_tokens=16)
    ours(built("llama"), ONE, max_new_tokens=4)
    drafted, plain = seen
    assert 0 < drafted.speculation.target.accepted < drafted.speculation.target.drafted
    assert drafted.speculation.mode == "exact" and plain.speculation.mode == "none"


def end_of(kind: str, at: int) -> int:
    """The token that `model.generate` writes at this place of the first text."""
    return theirs(built(kind), ONE, max_new_tokens=16)[0][4 + at]


@pytest.mark.parametrize("kind", KINDS)
def test_end_tokens_of_the_model(kind: str) -> None:
    """Rows that end early are padded with the model's padding token, else with the end token."""
    ends = [end_of(kind, 4), end_of(kind, 9)]
    for settings in ({"eos_token_id": ends, "pad_token_id": PAD}, {"eos_token_id": ends[0]}):
        model = with_config(kind, **settings)
        options = {"attention_mask": MASK, "max_new_tokens": 12}
        pad = settings.get("pad_token_id", ends[0])
        expected = theirs(model, BATCH, pad_token_id=pad, **options)
        assert ours(model, BATCH, **options) == expected
        options["attention_mask"] = torch.ones_like(ONE)
        assert ours(model, ONE, **options) == theirs(model, ONE, pad_token_id=pad, **options)


def test_an_end_token_given_takes_the_place_of_the_models_own() -> None:
    early, late = end_of("llama", 3), end_of("llama", 8)
    model = with_config("llama", eos_token_id=early)
    assert len(ours(model, ONE, max_new_tokens=16)[0]) < 4 + 8
    for ends in (late, [late, 287]):
        expected = theirs(model, ONE, max_new_tokens=16, eos_token_id=ends)
        assert ours(model, ONE, max_new_tokens=16, eos_token_id=ends) == expected
    free = {"max_new_tokens": 16, "eos_token_id": None}
    assert ours(model, ONE, **free) == theirs(model, ONE, **free)


def test_lengths() -> None:
    model = built("llama")
    assert ours(model, ONE, max_length=12) == theirs(model, ONE, max_length=12)
    options: dict[str, Any] = {"attention_mask": MASK, "max_length": 9, "pad_token_id": PAD}
    assert ours(model, BATCH, **options) == theirs(model, BATCH, **options)
    wide = torch.nn.functional.pad(ONE, (4, 0), value=PAD)
    mask = (wide != PAD).long()
    mask[0, -1] = 1
    options = {"attention_mask": mask, "max_length": 14, "pad_token_id": PAD}
    assert ours(model, wide, **options) == theirs(model, wide, **options)
    both = ours(model, ONE, max_length=5, max_new_tokens=3)
    assert len(both[0]) == 7, "max_new_tokens goes first"
    end = end_of("llama", 2)
    options = {"eos_token_id": end, "min_new_tokens": 6, "max_new_tokens": 12}
    assert ours(model, ONE, **options) == theirs(model, ONE, **options)


def test_the_shortest_length_and_options_that_say_nothing() -> None:
    model, end = built("llama"), end_of("llama", 2)
    options: dict[str, Any] = {"eos_token_id": end, "min_length": 10, "max_length": 16}
    expected = theirs(model, ONE, **options)
    silent = {"top_k": None, "max_new_tokens": None, "qualifier": None, "use_cache": True}
    assert ours(model, ONE, **options, **silent) == expected
    with pytest.raises(OptionError, match=r"max_length is 4, and the prompt has 4 tokens"):
        ours(model, ONE, max_length=4)


def test_the_answer_is_on_the_device_of_the_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    to = torch.Tensor.to
    monkeypatch.setattr(
        torch.Tensor, "to", lambda self, *a, **k: asked.append(a) or to(self, *a, **k)
    )
    for inputs, device in ((ONE, ONE.device), (ONE.tolist(), None)):
        outrider.generate(TabularModel.random(vocab_size=50), inputs, max_new_tokens=1)
        assert asked[-1] == (device,)


def test_processors_and_penalties() -> None:
    model = built("llama")
    options: dict[str, Any] = {
        "logits_processor": LogitsProcessorList([NoRepeatNGramLogitsProcessor(2)]),
        "repetition_penalty": 1.3,
        "max_new_tokens": 16,
    }
    expected = theirs(model, ONE, **options)
    assert ours(model, ONE, assistant_model=assistant("llama"), **options) == expected


@pytest.mark.parametrize(
    "form",
    [
        [5, 9, 40, 3],
        [[5, 9, 40, 3]],
        torch.tensor([5, 9, 40, 3]),
        {"input_ids": ONE, "attention_mask": torch.ones_like(ONE)},
        {"input_ids": [[5, 9, 40, 3]]},
    ],
    ids=["ids", "row", "vector", "encoding", "lists"],
)
def test_prompts_of_all_forms(form: Any) -> None:
    expected = ours(built("llama"), ONE, max_new_tokens=4)
    assert ours(built("llama"), form, max_new_tokens=4) == expected


def test_an_encoding_may_be_spread_over_keywords() -> None:
    encoding = {"input_ids": BATCH, "attention_mask": MASK}
    expected = ours(built("llama"), encoding, max_new_tokens=3)
    assert outrider.generate(built("llama"), **encoding, max_new_tokens=3).tolist() == expected
    ragged = ours(built("llama"), [[5, 9, 40], [7]], max_new_tokens=3, pad_token_id=PAD)
    assert ragged[0] == expected[0][2:]
    assert ragged[1] == [*expected[2][4:], PAD, PAD]
    for nothing in (None, [], {"input_ids": []}):
        with pytest.raises(OptionError, match="there is no prompt"):
            outrider.generate(built("llama"), nothing)


# -- sampling ----------------------------------------------------------------------------------


def test_when_it_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in `transformers`: by `do_sample`, given or in the model's configuration."""
    asked: list[Any] = []
    result = Generator.result
    monkeypatch.setattr(
        Generator,
        "result",
        lambda self, g, s: asked.append(g.request.sampler) or result(self, g, s),
    )

    def warps(model: Any, **options: Any) -> tuple[float, int, float]:
        asked.clear()
        ours(model, ONE, max_new_tokens=2, **{"seed": 1} | options)
        params = asked[0].params
        return params.temperature, params.top_k, params.top_p

    plain = built("llama")
    own = with_config("llama", do_sample=True, temperature=0.6, top_p=0.9)
    assert warps(plain) == warps(plain, temperature=1.5) == (0.0, 0, 1.0)
    assert warps(plain, do_sample=True) == (1.0, 50, 1.0)
    assert warps(plain, do_sample=True, top_k=5, temperature=0.5) == (0.5, 5, 1.0)
    assert warps(plain, do_sample=False, temperature=0.5)[0] == 0.0
    assert warps(own) == warps(own, do_sample=True) == (0.6, 50, 0.9)
    assert warps(own, top_k=0, temperature=0.9) == (0.9, 0, 0.9)
    assert warps(own, do_sample=False)[0] == 0.0


def test_samples_of_each_prompt_stand_together() -> None:
    options: dict[str, Any] = {
        "attention_mask": MASK,
        "do_sample": True,
        "max_new_tokens": 5,
        "seed": 3,
    }
    one = ours(built("llama"), BATCH, **options)
    three = ours(
        built("llama"), BATCH, num_return_sequences=3, assistant_model=assistant("llama"), **options
    )
    assert len(three) == 9 and three[::3] == one
    assert len({tuple(row) for row in three}) == 9


# -- streamers ---------------------------------------------------------------------------------


class Recorder:
    def __init__(self) -> None:
        self.parts: list[list[int]] = []
        self.ended = 0

    def put(self, value: torch.Tensor) -> None:
        self.parts.append(value.flatten().tolist())

    def end(self) -> None:
        self.ended += 1


@pytest.mark.parametrize("drafted", [False, True])
def test_a_streamer_gets_the_prompt_and_then_each_token(drafted: bool) -> None:
    draft = assistant("llama") if drafted else None
    model, mine, reference = built("llama"), Recorder(), Recorder()
    expected = theirs(model, ONE, max_new_tokens=12, streamer=reference)
    got = ours(model, ONE, max_new_tokens=12, streamer=mine, assistant_model=draft)
    assert got == expected and mine.parts == reference.parts
    assert mine.ended == reference.ended == 1


def test_a_text_streamer_of_transformers(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    write_tokenizer(tmp_path)
    codec = Tokenizer.load(tmp_path).tokenizer
    out = ours(
        built("llama"),
        ONE,
        max_new_tokens=9,
        streamer=TextStreamer(codec, skip_prompt=True),
        assistant_model=assistant("llama"),
    )
    assert capsys.readouterr().out == codec.decode(out[0][4:]) + "\n"


def test_a_streamer_shows_one_text() -> None:
    for options in ({"num_return_sequences": 2}, {"attention_mask": MASK}):
        ids = BATCH if "attention_mask" in options else ONE
        with pytest.raises(OptionError, match="a streamer shows one text"):
            ours(built("llama"), ids, streamer=Recorder(), **options)


# -- what else ---------------------------------------------------------------------------------


def test_a_qualifier_and_other_options_of_load() -> None:
    expected = theirs(built("llama"), ONE, max_new_tokens=12)
    options = {"qualifier": assistant("llama"), "num_qualified_tokens": 3}
    got = ours(
        built("llama"), ONE, assistant_model=assistant("llama"), max_new_tokens=12, **options
    )
    assert got == expected
    assert ours(built("llama"), ONE, qualifier=assistant("llama"), max_new_tokens=12) == expected
    with pytest.raises(OptionError, match="unknown mode 'exakt'"):
        ours(built("llama"), ONE, assistant_model=assistant("llama"), mode="exakt")


def test_a_stop_string(tmp_path: Any) -> None:
    write_tokenizer(tmp_path)
    codec = Tokenizer.load(tmp_path).tokenizer
    text = ours(built("llama"), ONE, max_new_tokens=16)[0][4:]
    letter = next(i for i, t in enumerate(text) if t < 128)
    stop = chr(text[letter])
    options = {"max_new_tokens": 16, "stop_strings": [stop], "tokenizer": codec}
    got = ours(built("llama"), ONE, assistant_model=assistant("llama"), **options)[0][4:]
    assert got == text[: letter + 1] == theirs(built("llama"), ONE, **options)[0][4:]
    with pytest.raises(OptionError, match="stop strings need a tokenizer"):
        ours(built("llama"), ONE, stop_strings=stop)


@pytest.mark.parametrize(
    ("option", "near"), [("max_new_token", "max_new_tokens"), ("do_sampel", "do_sample")]
)
def test_unknown_options_are_named(option: str, near: str) -> None:
    with pytest.raises(OptionError, match=f"unknown option '{option}'. Did you mean '{near}'"):
        ours(built("llama"), ONE, **{option: 3})
    with pytest.raises(OptionError, match=r"num_beams is 4, which is not followed\. Use .*search"):
        ours(built("llama"), ONE, num_beams=4)


@pytest.mark.parametrize("streamer", [None, Recorder()])
def test_unusable_logits_are_an_error(streamer: Any) -> None:
    model = TabularModel(torch.full((9, 9), torch.nan, dtype=torch.float64), name="bad")
    with pytest.raises(LogitsError, match="model bad: logits hold NaN"):
        ours(model, [1, 2], streamer=streamer)


def test_what_a_review_found() -> None:
    """Options that are None, criteria and processors that replace, and options of Outrider."""
    model, end = with_config("llama", eos_token_id=end_of("llama", 3)), 287
    some: dict[str, Any] = {"max_new_tokens": 10}
    for options in (
        {"do_sample": True, "top_k": None},
        {"logits_processor": LogitsProcessorList([RepetitionPenaltyLogitsProcessor(1.1)])}
        | {"repetition_penalty": 1.9},
        {"stopping_criteria": [MaxLengthCriteria(12)], "max_new_tokens": 3},
        {"stopping_criteria": [EosTokenCriteria(end_of("llama", 6))]},
        {"prefix_allowed_tokens_fn": lambda row, ids: [9, 40, 41], "forced_eos_token_id": 7},
        {"eos_token_id": np.int64(end)},
    ):
        torch.manual_seed(3)
        expected = theirs(model, ONE, **some | options)
        torch.manual_seed(3)
        assert ours(model, ONE, **some | options) == expected, options
    padded: dict[str, Any] = {"attention_mask": MASK, "repetition_penalty": 2.5}
    padded |= {
        "pad_token_id": PAD,
        "no_repeat_ngram_size": 3,
        "logits_processor": [lambda ids, scores: scores],
    }
    assert ours(model, BATCH, **some | padded) == theirs(model, BATCH, **some | padded)
    assert len(ours(model, ONE, **some, ignore_eos=True)[0]) == 14
    assert ours(model, ONE, **some, stop_token_ids=[end]) == ours(model, ONE, **some)
    for wrong, match in (
        ({"attention_mask": [[1, 1, 1, 0]]}, "the end of row 0"),
        ({"attention_mask": [[0, 0, 0, 0]]}, "row 0 holds padding only"),
        ({"input_ids": [[1]]}, "inputs and input_ids are both given"),
        ({"logits_processor": len}, "logits_processor is a builtin"),
        ({"generation_config": {}}, "generation_config is a dict"),
    ):
        with pytest.raises(OptionError, match=match):
            ours(model, ONE, **wrong)
    with pytest.raises(OptionError, match="pixel_values"):
        ours(model, {"input_ids": ONE, "pixel_values": ONE})
