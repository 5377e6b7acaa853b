"""`outrider.generate` returns the ids of `generate` of `transformers`, for drawn options."""

import logging
import random
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

import outrider
from outrider.core.errors import OptionError
from outrider.engine.generation_config.fields import refused
from tests.engine.bridge.test_compat import assistant, built, with_config

pytestmark = pytest.mark.usefixtures("unchecked", "quiet")


@pytest.fixture
def quiet() -> Iterator[None]:
    """Without the notes of `transformers` on each unusual option."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


END, PAD, BOS = 7, 3, 1

VALUES: Mapping[str, Sequence[Any]] = {
    "max_new_tokens": (1, 5, 12),
    "max_length": (14, 20),
    "min_new_tokens": (3, 30),
    "min_length": (9,),
    "eos_token_id": (END, [END, 40, 99, 120, 12], [5, 9, 33, 150, 201, 77, 64, 250]),
    "temperature": (0.5, 1.0, 1.7),
    "top_k": (0, 1, 5, 300),
    "top_p": (0.3, 0.9, 1.0),
    "min_p": (0.02, 0.3),
    "top_h": (0.4,),
    "typical_p": (0.5, 0.95),
    "epsilon_cutoff": (0.002,),
    "eta_cutoff": (0.003,),
    "repetition_penalty": (0.8, 1.4),
    "encoder_repetition_penalty": (1.3,),
    "no_repeat_ngram_size": (1, 2),
    "encoder_no_repeat_ngram_size": (1, 2),
    "bad_words_ids": ([[9]], [[5, 9], [40], [11, 12, 13]]),
    "suppress_tokens": ([9, 40, 41, 42], list(range(20, 140))),
    "begin_suppress_tokens": ([9, 200, 201],),
    "forced_bos_token_id": (BOS,),
    "forced_eos_token_id": (END,),
    "sequence_bias": ({(9,): 4.0, (5, 9): -3.0}, [[[40], 2.5]]),
    "exponential_decay_length_penalty": ((2, 1.5),),
    "renormalize_logits": (True,),
    "num_return_sequences": (1, 3),
    "use_cache": (True, False),
    "num_beams": (1, 1, 1, 4),
    "early_stopping": (True,),
    "length_penalty": (2.0,),
    "diversity_penalty": (0.0,),
    "max_time": (1000.0,),
    "remove_invalid_values": (False, True),
    "guidance_scale": (1.5,),
    "synced_gpus": (False,),
    "return_dict_in_generate": (False, True),
    "output_scores": (False,),
    "pad_token_id": (PAD,),
}

PROMPTS: Mapping[str, Sequence[Sequence[int]]] = {
    "one": [[5, 9, 40, 4]],
    "short": [[5]],
    "batch": [[PAD, PAD, 5, 9, 40], [11, 12, 13, 14, 15], [PAD, PAD, PAD, PAD, 9]],
    "even": [[5, 9, 40], [11, 12, 9]],
}


def drawn(seed: int) -> tuple[str, dict[str, Any]]:
    """Draw a prompt and options."""
    rng = random.Random(seed)
    options = {name: rng.choice(values) for name, values in VALUES.items() if rng.random() < 0.12}
    options["do_sample"] = rng.random() < 0.6
    options.setdefault("pad_token_id", PAD)
    options.setdefault("eos_token_id", END)
    if not {"max_new_tokens", "max_length"} & options.keys() and rng.random() < 0.8:
        options["max_new_tokens"] = 8
    return rng.choice(list(PROMPTS)), options


def placed(seed: int, kind: str, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Give the options as keywords, as an object, or in the configuration of the model."""
    way = seed % 4
    if way == 0:
        apart = {name: options.pop(name) for name in ("synced_gpus",) if name in options}
        return built(kind), {"generation_config": GenerationConfig(**options), **apart}
    if way == 1:
        options = {name: value for name, value in options.items() if not refused({name: value})}
        return with_config(kind, **options), {}
    return built(kind), options


def compared(seed: int) -> str:
    """Return `equal`, or the option that is refused; fail if the ids differ."""
    which, options = drawn(seed)
    kind = ("llama", "gpt2")[seed % 2]
    ids = torch.tensor(PROMPTS[which])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            model, given = placed(seed // 2, kind, dict(options))
            if seed % 5:  # else the mask is inferred from the padding token
                given["attention_mask"] = (ids != PAD).long()
            torch.manual_seed(seed)
            theirs = model.generate(ids, **given)
        except ValueError:
            return "transformers refuses"
        after = torch.get_rng_state()
        torch.manual_seed(seed)
        draft = assistant(kind) if seed % 3 == 0 else None
        try:
            ours = outrider.generate(model, ids, assistant_model=draft, **given)
        except OptionError as error:
            named = re.match(r"\w+", error.problem)
            assert named is not None and named[0] in options, error
            return named[0]
    assert ours.tolist() == theirs.tolist(), (kind, which, options)
    assert torch.equal(after, torch.get_rng_state()), "the generator was left elsewhere"
    return "equal"


@pytest.mark.parametrize("part", range(4))
def test_ids_equal_those_of_transformers(part: int) -> None:
    found = [compared(seed) for seed in range(10 * part, 10 * part + 10)]
    assert found.count("equal") >= 4


@pytest.mark.slow
def test_five_hundred_combinations() -> None:
    found = [compared(seed) for seed in range(500)]
    assert found.count("equal") >= 350, {name: found.count(name) for name in set(found)}
