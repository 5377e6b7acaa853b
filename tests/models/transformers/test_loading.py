"""What `TransformersModel` says of itself, and what it refuses, by name."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaForCausalLM, PreTrainedModel

from outrider.core.errors import CheckpointError
from outrider.core.types import Prompt
from outrider.models.caches.masks import within_window
from outrider.models.checkpoints.defaults import recommended, sampling_defaults
from outrider.models.checkpoints.opening import open_checkpoint
from outrider.models.checkpoints.window import read_window
from outrider.models.transformers.model import TransformersModel
from outrider.sampling import SamplingParams
from tests.models.setups.built import REFUSED, RUNS, BuiltReference, build
from tests.models.setups.make_checkpoints import make_checkpoint
from tests.models.setups.reference import begin, close, next_logits, random_ids


def save(kind: str, folder: Path) -> Path:
    build(*RUNS[kind]).save_pretrained(folder)
    return folder


# -- refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", REFUSED)
def test_refused_by_name_when_built(kind: str) -> None:
    family, settings, reason = REFUSED[kind]
    with pytest.raises(CheckpointError, match=reason) as refusal:
        TransformersModel(build(family, settings), name="draft")
    assert kind.split()[0] in str(refusal.value) and "draft" in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("kind", ["mamba", "t5", "bloom", "llama4_text"])
def test_refused_before_the_weights_are_read(kind: str, tmp_path: Path) -> None:
    family, settings, reason = REFUSED[kind]
    build(family, settings).save_pretrained(tmp_path)
    spoil_weights(tmp_path)
    with pytest.raises(CheckpointError, match=reason):
        TransformersModel.load(tmp_path)


def spoil_weights(folder: Path) -> None:
    """Rename a tensor of the file, so that reading the weights would raise something else."""
    file = folder / "model.safetensors"
    content = file.read_bytes()
    assert b"weight" in content
    file.write_bytes(content.replace(b"weight", b"wright", 1))


class _Deaf(LlamaForCausalLM):
    """A model that takes positions or masks, and ignores them."""

    ignored = ""

    def forward(self, *inputs: Any, **options: Any) -> Any:
        if options.get("past_key_values") is not None:
            options[self.ignored] = None
        return super().forward(*inputs, **options)


class _IgnoresPositions(_Deaf):
    ignored = "position_ids"


class _IgnoresMasks(_Deaf):
    ignored = "attention_mask"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("deaf", [_IgnoresPositions, _IgnoresMasks])
def test_models_that_ignore_what_they_are_told_are_found_out(
    deaf: type[PreTrainedModel], dtype: torch.dtype
) -> None:
    sound = build(*RUNS["llama"], std=0.4)
    model = deaf(sound.config)
    model.load_state_dict(sound.state_dict())
    TransformersModel(sound.to(dtype))
    with pytest.raises(CheckpointError, match="cannot read draft trees"):
        TransformersModel(model.to(dtype))


@pytest.mark.parametrize("kind", ["mistral window", "qwen2 window", "gemma2 window"])
def test_a_window_that_is_not_honoured_is_found_out(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("outrider.models.caches.masks.within_window", lambda seen, *_: seen)
    with pytest.raises(CheckpointError, match="cannot read draft trees"):
        TransformersModel(build(*RUNS[kind]))


def test_the_check_leaves_the_window_as_it_was() -> None:
    model = TransformersModel(build(*RUNS["mistral window"]))
    assert model.model.config.sliding_window == model.layout.window == 5


def test_windows_are_counted_in_positions_not_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mutation: with slots for positions, late siblings lose sight of the near text."""

    def by_slot(seen: Any, rows: Any, slots: Any, window: int) -> Any:
        numbers = np.arange(len(slots))
        return within_window(seen, numbers[-len(rows) :], numbers, window)

    monkeypatch.setattr("outrider.models.caches.masks.within_window", by_slot)
    with pytest.raises(CheckpointError, match="cannot read draft trees"):
        TransformersModel(build(*RUNS["mistral window"]))


def test_attention_without_masks_is_refused() -> None:
    model = build(*RUNS["llama"])
    model.config._attn_implementation_internal = "flash_attention_2"
    with pytest.raises(CheckpointError, match=r"flash_attention_2.*set_attn_implementation"):
        TransformersModel(model)


def test_weights_that_are_not_numbers_are_refused() -> None:
    model = build(*RUNS["llama"])
    with torch.no_grad():
        model.get_input_embeddings().weight.fill_(torch.nan)
    with pytest.raises(CheckpointError, match="NaN as logits"):
        TransformersModel(model)


def test_missing_weights_are_named(tmp_path: Path) -> None:
    path = save("llama", tmp_path)
    config = json.loads((path / "config.json").read_text()) | {"num_hidden_layers": 3}
    (path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"lacks \d+ weights.*layers\.2"):
        TransformersModel.load(path)


def test_unknown_architectures_and_other_bad_sources(tmp_path: Path) -> None:
    path = save("llama", tmp_path)
    config = json.loads((path / "config.json").read_text()) | {"model_type": "unheard_of"}
    (path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="unheard_of"):
        TransformersModel.load(path)
    with pytest.raises(CheckpointError, match="no/such-model"):
        TransformersModel.load("no/such-model")


# -- what it says of itself --------------------------------------------------------------------


def test_a_loaded_folder(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = save("gpt2", tmp_path / "small")
    capfd.readouterr()
    model = TransformersModel.load(path)
    assert capfd.readouterr() == ("", "")
    text = random_ids(9)
    close(next_logits(model, begin(model, text)), BuiltReference(model.model).logits(text)[-1])
    assert (model.info.name, model.info.vocab_size, model.info.context_length) == (
        "small",
        288,
        256,
    )
    assert (model.dtype, str(model.device), model.hidden_size) == (torch.float32, "cpu", 32)
    assert model.info.num_parameters == build(*RUNS["gpt2"]).num_parameters()
    assert model.info.bytes_per_token == 2 * 2 * 32 * 4
    close(model.embed([3, 5]), model.model.get_input_embeddings().weight[[3, 5]].detach())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_dtypes(tmp_path: Path, dtype: torch.dtype) -> None:
    path = save("neox", tmp_path)
    model, exact = TransformersModel.load(path, dtype=dtype), TransformersModel.load(path)
    logits = next_logits(model, begin(model, random_ids(30)))
    assert model.dtype == logits.dtype == dtype
    close(logits.float(), next_logits(exact, begin(exact, random_ids(30))), 0.1)


def test_fingerprints_follow_the_weights(tmp_path: Path) -> None:
    first = TransformersModel(build(*RUNS["gpt2"]))
    assert first.info.fingerprint == TransformersModel(build(*RUNS["gpt2"])).info.fingerprint
    other = build(*RUNS["gpt2"])
    with torch.no_grad():
        other.transformer.h[1].mlp.c_fc.bias[0] += 1e-3
    assert TransformersModel(other).info.fingerprint != first.info.fingerprint
    path = save("gpt2", tmp_path)
    assert TransformersModel.load(path).info.fingerprint == open_checkpoint(path).fingerprint


def test_cache_of_another_model_is_not_reused() -> None:
    model, other = (TransformersModel(build(*RUNS["llama"])) for _ in range(2))
    foreign = begin(other, random_ids(10))
    [cache] = model.start([Prompt(token_ids=random_ids(10))], [foreign])
    assert cache is not foreign


@pytest.mark.parametrize(("given", "found"), [(7, (7,)), ([7, 9], (7, 9)), (None, ())])
def test_end_ids(given: Any, found: tuple[int, ...], tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path, "llama", eos_token_id=given)
    assert TransformersModel.load(path).info.end_ids == found


def test_end_ids_of_generation_config_come_first(tmp_path: Path) -> None:
    path = make_checkpoint(
        tmp_path, "llama", eos_token_id=7, generation={"eos_token_id": [3, 4], "temperature": 0.5}
    )
    model = TransformersModel.load(path)
    assert model.info.end_ids == (3, 4)
    assert model.info.generation_defaults["temperature"] == 0.5


def test_generation_defaults_become_sampling_options() -> None:
    found = recommended({"_from": 1, "transformers_version": "5", "top_k": None, "top_p": 0.9})
    assert found == {"top_p": 0.9}
    assert sampling_defaults({"temperature": 0.6, "repetition_penalty": 1.1}) == {
        "repetition_penalty": 1.1
    }
    given = {"do_sample": True, "top_p": 0.9, "top_k": 20, "eos_token_id": [1], "max_length": 20}
    assert sampling_defaults(given) == {"temperature": 1.0, "top_p": 0.9, "top_k": 20}
    assert SamplingParams.of(**sampling_defaults(given | {"temperature": 0.6})).temperature == 0.6


def test_words_that_are_never_chosen() -> None:
    """An end token among bad words is let through, and -1 stands for no token, as there."""
    given = {"bad_words_ids": [[7], [2], [3, 4]], "eos_token_id": [2, 9], "suppress_tokens": [-1]}
    assert sampling_defaults(given) == {"banned_tokens": (7,)}
    assert sampling_defaults({"suppress_tokens": [5, 2], "eos_token_id": 2}) == {
        "banned_tokens": (2, 5)
    }
    assert sampling_defaults({"bad_words_ids": None, "suppress_tokens": [-1]}) == {}


@pytest.mark.parametrize(
    ("rope", "limit"),
    [
        ({"rope_type": "default"}, 4096),
        ({"rope_type": "yarn", "original_max_position_embeddings": 64}, 4096),
        ({"rope_type": "longrope", "original_max_position_embeddings": 64}, 64),
        ({"full_attention": {"type": "dynamic", "original_max_position_embeddings": 99}}, 99),
        (None, 4096),
    ],
)
def test_context_ends_where_positions_would_shift(rope: Any, limit: int) -> None:
    config = GPT2Config(n_positions=4096)
    config.rope_parameters = rope
    assert read_window(config.to_dict()).tokens == limit


def test_a_training_model_is_put_into_evaluation_mode() -> None:
    settings = {"vocab_size": 288, "n_embd": 32, "n_layer": 1, "n_head": 2}
    model = GPT2LMHeadModel(GPT2Config(**settings, bos_token_id=None, eos_token_id=None)).train()
    assert not TransformersModel(model).model.training
