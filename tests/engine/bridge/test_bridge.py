"""What users of `generate` of `transformers` rely on beside the ids; see also `test_compat.py`."""

import copy
import random
import threading
import warnings
from queue import Empty, Queue
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig, TextIteratorStreamer, set_seed

import outrider
from outrider.core.errors import OptionError, OutriderWarning
from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.sampling import pure
from tests.engine.bridge.test_compat import (
    BATCH,
    MASK,
    ONE,
    PAD,
    assistant,
    built,
    end_of,
    ours,
    theirs,
    with_config,
)
from tests.engine.conftest import Folders

pytestmark = pytest.mark.usefixtures("unchecked")

TURN_END = 259
"""`<|end|>` of the tiny tokenizer: special, and not an end token of the model."""


def force(*tokens: int, width: int) -> Any:
    """A pure processor that makes the text begin with these tokens."""

    def processor(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        index = ids.shape[1] - width
        if index >= len(tokens):
            return scores
        return torch.full_like(scores, -torch.inf).index_fill_(1, torch.tensor(tokens[index]), 0.0)

    return pure(processor)


# -- stop strings that are special tokens ------------------------------------------------------


@pytest.mark.parametrize("options", [{"mode": "none"}, {"drafter": "lookup"}, {}])
def test_a_special_token_stops_the_text(folders: Folders, options: dict[str, Any]) -> None:
    gen = outrider.load(folders.target, dtype="float64", **options)
    words = tuple(b"hello, hello, hello")
    processors = [force(*words, TURN_END, *words, width=5)]
    result = gen.generate(
        "hello",
        ignore_eos=True,
        stop=["<|end|>"],
        logits_processors=processors,
        max_new_tokens=40,
    )
    assert result.text == "hello, hello, hello" and result.finish_reason == "stop"
    assert result.token_ids[-1] == TURN_END
    stream = gen.stream("hello", ignore_eos=True, stop=["lo<|end|>h"], logits_processors=processors)
    assert "".join(stream) == "hello, hello, hel"


@pytest.mark.parametrize("stop", ["<|end|>", "lo<|end|>", "<|end|>he", ["zz", "o<|end|>"]])
@pytest.mark.parametrize("drafted", [False, True])
def test_stop_strings_as_in_transformers(folders: Folders, stop: Any, drafted: bool) -> None:
    model = AutoModelForCausalLM.from_pretrained(folders.target, trust_remote_code=False).double()
    codec = Tokenizer.load(folders.target).tokenizer
    ids = torch.tensor([list(b"hello")])
    words = tuple(b"hello, hello")
    options = {
        "stop_strings": stop,
        "tokenizer": codec,
        "max_new_tokens": 30,
        "eos_token_id": 256,
        "pad_token_id": 256,
        "logits_processor": [force(*words, TURN_END, *words, width=5)],
    }
    draft = str(folders.draft) if drafted else None
    got = outrider.generate(model, ids, assistant_model=draft, **options).tolist()
    assert got == model.generate(ids, attention_mask=torch.ones_like(ids), **options).tolist()
    assert len(got[0]) < 5 + 30


# -- processors that keep a state --------------------------------------------------------------


class Advances:
    """Allows the tokens of a cycle, one after the other, as a grammar does."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.allowed = [17, 262, 554 % 288, 40, 5]

    def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.seen.append(ids.shape[1])
        kept = torch.full_like(scores, -torch.inf)
        token = self.allowed[len(self.seen) % 5]
        kept[:, [token, token - 1]] = scores[:, [token, token - 1]]
        return kept


@pytest.mark.parametrize(
    "options",
    [
        {"drafter": "lookup", "num_speculative_tokens": 4},
        {"drafter": "recycling"},
        {"drafter": "model", "num_speculative_tokens": 5},
        {"drafter": "pyramid", "num_speculative_tokens": 2, "num_qualified_tokens": 4},
        {"drafter": "model", "growth": "eagle2", "num_draft_nodes": 6},
        {},
    ],
    ids=lambda options: "-".join(map(str, options.values())) or "default",
)
def test_a_processor_sees_each_position_once_and_in_order(
    folders: Folders, options: dict[str, Any]
) -> None:
    sampling: dict[str, Any] = {"max_new_tokens": 24, "ignore_eos": True, "temperature": 0.8}
    expected = outrider.load(folders.target, mode="none", dtype="float64").generate(
        "abab", logits_processors=[Advances()], seed=4, **sampling
    )
    gen = outrider.load(
        folders.target,
        qualifier=folders.qualifier,
        draft=folders.draft,
        dtype="float64",
        **options,
    )
    processor = Advances()
    got = gen.generate("abab", logits_processors=[processor], seed=4, **sampling)
    assert got.token_ids == expected.token_ids
    assert processor.seen[:24] == list(range(4, 28))


def test_each_text_has_a_copy_of_a_processor(folders: Folders) -> None:
    gen = outrider.load(folders.target, draft=folders.draft, dtype="float64")
    options: dict[str, Any] = {"max_new_tokens": 8, "ignore_eos": True}
    alone = [
        gen.generate(text, logits_processors=[Advances()], **options).token_ids
        for text in ("ab", "cde")
    ]
    together = gen.generate(["ab", "cde"], logits_processors=[Advances()], **options)
    assert [result.token_ids for result in together] == alone

    class Stubborn(Advances):
        def __deepcopy__(self, memo: Any) -> Any:
            raise TypeError("no copies")

    with pytest.raises(OptionError, match=r"Stubborn cannot be copied.*no copies"):
        gen.generate(["ab", "cde"], logits_processors=[Stubborn()], **options)
    gen.generate("ab", logits_processors=[Stubborn()], **options)


def test_other_modes_do_not_draft_with_a_state(folders: Folders) -> None:
    gen = outrider.load(folders.target, draft=folders.draft, dtype="float64", mode="distribution")
    options: dict[str, Any] = {"max_new_tokens": 9, "ignore_eos": True, "temperature": 1.0}
    processor = Advances()
    with pytest.warns(OutriderWarning, match="drafting is off for this request: Advances"):
        result = gen.generate("abab", logits_processors=[processor], **options)
    assert result.speculation.target.drafted == 0
    assert processor.seen == list(range(4, 13))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        free = gen.generate("abab", logits_processors=[pure(Advances())], **options)
    assert free.speculation.target.drafted > 0


def test_a_processor_of_the_assistant_model_too(folders: Folders) -> None:
    """`Advances` through the bridge, for a prompt padded on the left."""
    model = built("llama")
    options = {"max_new_tokens": 12, "logits_processor": [Advances()], "pad_token_id": PAD}
    wide = torch.nn.functional.pad(ONE[:, :3], (2, 0), value=PAD)
    mask = torch.tensor([[0, 0, 1, 1, 1]])
    expected = theirs(model, wide, **options, attention_mask=mask)
    options["logits_processor"] = [Advances()]
    got = ours(model, wide, attention_mask=mask, assistant_model=assistant("llama"), **options)
    assert got == expected


# -- random numbers ----------------------------------------------------------------------------


def test_seeds_of_torch_reproduce_samples() -> None:
    options: dict[str, Any] = {"do_sample": True, "max_new_tokens": 12, "top_k": 0}
    for seed in (1, 2):
        set_seed(seed)
        first = ours(built("llama"), ONE, **options)
        second = ours(built("llama"), ONE, assistant_model=assistant("llama"), **options)
        set_seed(seed)
        assert first == theirs(built("llama"), ONE, **options)
        assert second == theirs(built("llama"), ONE, **options)
        assert first != second


def test_a_seed_of_ones_own_leaves_torch_alone() -> None:
    state = torch.get_rng_state()
    options: dict[str, Any] = {"do_sample": True, "max_new_tokens": 9, "seed": 5}
    assert ours(built("llama"), ONE, **options) == ours(built("llama"), ONE, **options)
    assert torch.equal(state, torch.get_rng_state())


# -- padding ---------------------------------------------------------------------------


def test_padding_is_recognised_by_its_token() -> None:
    model = with_config("llama", pad_token_id=PAD)
    expected = model.generate(BATCH, max_new_tokens=6).tolist()
    assert ours(model, BATCH, max_new_tokens=6) == expected
    assert expected == ours(built("llama"), BATCH, attention_mask=MASK, max_new_tokens=6)
    ends = with_config("llama", pad_token_id=PAD, eos_token_id=PAD)  # then it cannot be told
    got = ours(ends, BATCH, max_new_tokens=6)
    assert got == ends.generate(BATCH, max_new_tokens=6).tolist()


# -- the caller's objects ----------------------------------------------------------------------


def snapshot(model: torch.nn.Module) -> dict[str, Any]:
    return {
        "training": [module.training for module in model.modules()],
        "hooks": [
            len(module._forward_hooks) + len(module._forward_pre_hooks)
            for module in model.modules()
        ],
        "config": model.config.to_dict(),  # pyright: ignore[reportAttributeAccessIssue]
        "generation": model.generation_config.to_dict(),  # pyright: ignore
        "buffers": {name: (b.dtype, b.clone()) for name, b in model.named_buffers()},
        "grads": [p.requires_grad for p in model.parameters()],
        "names": sorted(vars(model)),
    }


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_the_model_is_left_as_it_was(kind: str) -> None:
    model, draft = copy.deepcopy(built(kind)).train(), copy.deepcopy(assistant(kind)).train()
    next(iter(model.children())).eval()  # a mode of its own
    before = snapshot(model), snapshot(draft)

    def broken(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("broken on purpose")

    ours(model, ONE, assistant_model=draft, max_new_tokens=6)
    after = snapshot(model), snapshot(draft)
    with pytest.raises(RuntimeError, match="broken on purpose"):
        ours(model, ONE, assistant_model=draft, logits_processor=[broken])
    with pytest.raises(OptionError):
        ours(model, ONE, assistant_model=draft, mode="nonsense")
    for found in (after, (snapshot(model), snapshot(draft))):
        for one, other in zip(before, found, strict=True):
            buffers, same = one["buffers"], other["buffers"]
            assert buffers.keys() == same.keys()
            for name, (dtype, values) in buffers.items():
                assert same[name][0] == dtype and torch.equal(same[name][1], values)
            assert {k: v for k, v in one.items() if k != "buffers"} == {
                k: v for k, v in other.items() if k != "buffers"
            }


def test_a_streamers_reader_does_not_hang(folders: Folders) -> None:
    codec = Tokenizer.load(folders.target).tokenizer

    def broken(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if ids.shape[1] > 6:
            raise RuntimeError("broken on purpose")
        return scores

    streamer = TextIteratorStreamer(codec, skip_prompt=True, timeout=20)
    failures: Queue[BaseException] = Queue()

    def write() -> None:
        try:
            ours(built("llama"), ONE, streamer=streamer, logits_processor=[broken])
        except RuntimeError as error:
            failures.put(error)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        "".join(streamer)
    except Empty:
        pytest.fail("the reader waits")
    thread.join()
    assert "on purpose" in str(failures.get(timeout=5))


# -- names -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 1},
        {"synced_gpus": False},
        {"token_type_ids": torch.zeros(1, 4, dtype=torch.long)},
        {"bad_words_ids": [[9]]},
        {"suppress_tokens": [9, 10]},
        {"no_repeat_ngram_size": 2},
        {"generation_config": GenerationConfig(max_new_tokens=5)},
        {"prompt_lookup_num_tokens": 3},
        {"prompt_lookup_num_tokens": 3, "max_matching_ngram_size": 2},
        {"num_assistant_tokens": 4},
        {"output_scores": False, "return_dict_in_generate": False},
    ],
    ids=lambda options: "-".join(options),
)
def test_what_changes_nothing_or_has_a_counterpart(options: dict[str, Any]) -> None:
    reference = {k: v for k, v in options.items() if k not in ("token_type_ids",)}
    expected = theirs(built("llama"), ONE, **{"max_new_tokens": 8} | reference)
    assert ours(built("llama"), ONE, **{"max_new_tokens": 8} | options) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beams": 3}, "num_beams is 3.*Use .*search"),
        ({"assistant_early_exit": 2}, "drafter=.*swift"),
        ({"past_key_values": object()}, "past_key_values is .*Keep the generator"),
        ({"checker": object()}, "checker is .*Give it to outrider.load"),
        ({"return_dict_in_generate": True}, "outrider.load"),
        ({"attention_mask": [[1, 1]]}, "attention_mask has rows of"),
        ({"bad_words_ids": "abc"}, "bad_words_ids is 'abc'"),
        ({"penalty_alpha": 0.6}, "penalty_alpha is 0.6"),
        ({"forced_eos_token_id": 10**9}, "forced_eos_token_id holds .* 1000000000.*0 to 287"),
        ({"forced_bos_token_id": -1}, "forced_bos_token_id holds the token id -1"),
        ({"bad_words_ids": [[5, 10**5000]]}, "bad_words_ids holds .* more than 60 digits"),
        ({"sequence_bias": {(5, 288): 1.0}}, "sequence_bias holds the token id 288"),
        ({"sequence_bias": [[[288], 400]]}, "sequence_bias holds the token id 288"),
        ({"exponential_decay_length_penalty": (1,)}, "exponential_decay_length_penalty is"),
        ({"repetition_penalty": 10**5000}, "repetition_penalty is a whole number of more"),
        ({"stop_token_ids": [-(10**5000)]}, "stop_token_ids holds a whole number"),
        ({"max_time": "x"}, "max_time is 'x'. Give a number"),
        ({"token_type_ids": "x"}, "token_type_ids is 'x', which is not followed"),
        ({"logits_processor": [5]}, "logits_processor holds 5"),
        ({"stopping_criteria": [5]}, "stopping_criteria holds 5"),
        ({"streamer": 5}, "streamer is 5"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_refusals_name_the_option(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        ours(built("llama"), ONE, **options)


def test_a_lookup_really_drafts(monkeypatch: pytest.MonkeyPatch) -> None:
    from outrider.engine.generator import Generator

    seen: list[Any] = []
    result = Generator.result
    monkeypatch.setattr(Generator, "result", lambda *args: seen.append(result(*args)) or seen[-1])
    ids = [random.Random(0).choices(range(5, 9), k=60)]
    ours(built("llama"), ids, prompt_lookup_num_tokens=4, max_new_tokens=20)
    ours(built("llama"), ids, drafter="lookup", max_new_tokens=20)
    assert all(one.speculation.target.drafted > 0 for one in seen)


def test_without_inputs_the_text_begins_with_bos() -> None:
    model = with_config("llama", bos_token_id=11)
    expected = model.generate(max_new_tokens=4).tolist()
    assert outrider.generate(model, max_new_tokens=4).tolist() == expected


def test_an_end_inside_a_batch_of_samples() -> None:
    options: dict[str, Any] = {"attention_mask": MASK, "do_sample": True, "max_new_tokens": 9}
    options |= {"eos_token_id": [end_of("llama", 3), *range(60)], "pad_token_id": PAD}
    torch.manual_seed(0)
    expected = theirs(built("llama"), BATCH, **options)
    torch.manual_seed(0)
    assert ours(built("llama"), BATCH, **options) == expected
