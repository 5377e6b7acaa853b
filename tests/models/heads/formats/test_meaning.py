"""What the files of other projects mean: an independent computation from their definitions."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from outrider.core.errors import OutriderError
from outrider.core.values import JsonValue
from outrider.models.heads.config import HeadConfig, HeadKind
from outrider.models.heads.formats.head_file import HeadFile, Verifier
from outrider.models.heads.formats.reading import read_head
from outrider.models.heads.module import HeadModule
from tests.models.heads.formats.setups import (
    DRAFT,
    LAYER,
    VOCAB,
    WIDTH,
    in_speculators,
    mtp_checkpoint,
    numbers,
    original,
    speculators,
    tiny,
    write,
)

Tensors = dict[str, Tensor]
Settings = dict[str, JsonValue]
NONE = torch.empty(0)
EAGLE3 = tiny(HeadKind.EAGLE3)
STORED = in_speculators(numbers(EAGLE3, "lm_head.weight", "embed_tokens.weight"))


def rms(x: Tensor, weight: Tensor) -> Tensor:
    """Root mean square norm."""
    return x / (x.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * weight


def rotate(x: Tensor, positions: Tensor) -> Tensor:
    """Rotary embeddings of `[rows, heads, 4]`, halves rotate together."""
    angles = positions[:, None].float() * 10000.0 ** -(torch.arange(2) / 2)
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]
    low, high = x[..., :2], x[..., 2:]
    return torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1)


def attend(read: Tensor, weights: Tensors, layer: str) -> Tensor:
    """Causal attention of four query heads on two key heads."""
    rows = len(read)
    q, k, v = (
        F.linear(read, weights[f"{layer}self_attn.{name}_proj.weight"]).view(rows, -1, 4)
        for name in "qkv"
    )
    q, k = (rotate(one, torch.arange(rows)) for one in (q, k))
    k, v = (one.repeat_interleave(2, dim=1) for one in (k, v))
    scores = torch.einsum("ihd,jhd->hij", q, k) / 2
    scores = scores.masked_fill(torch.ones(rows, rows).triu(1).bool(), -torch.inf)
    return torch.einsum("hij,jhd->ihd", scores.softmax(-1), v).reshape(rows, -1)


def finish(stream: Tensor, attended: Tensor, weights: Tensors, layer: str) -> Tensor:
    """Output of attention and the MLP, with their residual connections."""
    stream = stream + attended @ weights[f"{layer}self_attn.o_proj.weight"].T
    read = rms(stream, weights[f"{layer}post_attention_layernorm.weight"])
    gate, up, down = (weights[f"{layer}mlp.{name}_proj.weight"] for name in ("gate", "up", "down"))
    return stream + (F.silu(read @ gate.T) * (read @ up.T)) @ down.T


def eagle3(
    stored: Tensors, config: Settings, states: Tensor, tokens: Tensor, later: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Logits and next state of EAGLE-3, from its definition and the names of its files."""
    layer = "midlayer." if "midlayer.mlp.up_proj.weight" in stored else "layers.0."
    inputs = states.flatten(1)
    if config.get("norm_before_fc"):
        inputs = rms(inputs, stored["input_norm.weight"])
    if config.get("fc_norm"):
        each = [rms(states[:, i], stored[f"fc_norm.{i}.weight"]) for i in range(3)]
        inputs = torch.cat(each, dim=-1)
    fused = inputs @ stored["fc.weight"].T if later is None else later
    normed = rms(fused, stored[f"{layer}hidden_norm.weight"])
    word = rms(stored["embed_tokens.weight"][tokens], stored[f"{layer}input_layernorm.weight"])
    attended = attend(torch.cat((word, normed), dim=-1), stored, layer)
    stream = normed if config.get("norm_before_residual") else fused
    out = finish(stream, attended, stored, layer)
    last = rms(out, stored["norm.weight"])
    return last @ stored["lm_head.weight"].T, last if config.get("norm_output") else out


def eagle1(stored: Tensors, states: Tensor, tokens: Tensor, head: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and next states of EAGLE-1, from its definition and the names of its files."""
    both = torch.cat((stored["embed_tokens.weight"][tokens], states), dim=-1)
    stream = both @ stored["fc.weight"].T + stored.get("fc.bias", 0)
    out = finish(stream, attend(stream, stored, "layers.0."), stored, "layers.0.")
    return out @ head.T, out


def run(
    file: HeadFile, states: Tensor | None, tokens: Tensor, later: Tensor, embed: Tensor
) -> tuple[Tensor, Tensor]:
    """Logits and next state of `HeadModule`, with attention over these rows."""
    assert isinstance(file.config, HeadConfig)
    module = HeadModule(file.config, file.tensors, lambda ids: F.embedding(ids, embed), embed)
    inputs = module.continued(later) if states is None else module.fused(states)
    none = torch.zeros(len(tokens), dtype=torch.long)
    stream, read = module.enter(inputs, tokens, none, none)
    attended = attend(read, file.tensors, "layers.0.")
    return module.answer(module.leave(stream, attended))


@pytest.mark.parametrize("original_names", [False, True])
@pytest.mark.parametrize(
    "flags",
    [
        {},
        {"norm_fused": True, "norm_before_residual": True},
        {"norm_states": True, "norm_output": True},
    ],
)
def test_an_eagle3_file_means_what_its_definition_says(
    tmp_path: Path, flags: dict[str, bool], *, original_names: bool
) -> None:
    config = tiny(HeadKind.EAGLE3, **flags)
    norms = ("fc_norm.weight",) if "norm_states" in flags else ()
    given = numbers(config, "lm_head.weight", "embed_tokens.weight", *norms)
    settings = speculators(config)
    stored = in_speculators(given)
    if original_names:
        stored = original(given)
        plain = {name: one for name, one in settings.items() if "specul" not in name}
        settings = dict(LAYER) | plain | {"architectures": ["LlamaForCausalLMEagle3"]}
    file = read_head(write(tmp_path, settings, stored))
    assert file.format == ("eagle3" if original_names else "speculators")
    assert torch.equal(file.tensors["ids"], given["ids"])
    generator = torch.Generator().manual_seed(1)
    states = torch.randn(5, 3, WIDTH, generator=generator)
    tokens = torch.tensor([3, 39, 0, 7, 7])
    none = torch.zeros(VOCAB, WIDTH)
    with torch.no_grad():
        expected, state = eagle3(stored, settings, states, tokens, None)
        logits, later = run(file, states, tokens, NONE, none)
        assert torch.allclose(logits, expected, atol=1e-5)
        assert torch.allclose(later, state, atol=1e-5)
        expected, _ = eagle3(stored, settings, states, tokens, state)
        logits, _ = run(file, None, tokens, state, none)
        assert torch.allclose(logits, expected, atol=1e-5)


def test_an_mtp_head_means_what_its_definition_says(tmp_path: Path) -> None:
    settings, stored = mtp_checkpoint()
    file = read_head(write(tmp_path, settings, stored))
    assert (file.format, file.config.states) == ("mtp", (6,))
    embed = stored["model.embed_tokens.weight"]
    state = torch.randn(4, 1, WIDTH, generator=torch.Generator().manual_seed(1))
    tokens = torch.tensor([3, 11, 0, 7])
    word = rms(embed[tokens], stored["mtp.pre_fc_norm_embedding.weight"])
    seen = rms(state[:, 0], stored["mtp.pre_fc_norm_hidden.weight"])
    stream = torch.cat((word, seen), dim=-1) @ stored["mtp.fc.weight"].T
    read = rms(stream, stored["mtp.layers.0.input_layernorm.weight"])
    out = finish(stream, attend(read, stored, "mtp.layers.0."), stored, "mtp.layers.0.")
    last = rms(out, stored["mtp.norm.weight"])
    with torch.no_grad():
        logits, later = run(file, state, tokens, NONE, embed)
        again, _ = run(file, None, tokens, state[:, 0], embed)
    assert torch.allclose(logits, last @ embed.T, atol=1e-5)
    assert torch.allclose(later, last, atol=1e-5)
    assert torch.equal(again, logits)  # a later step reads its input as the first step does


def test_states_of_original_heads(tmp_path: Path) -> None:
    settings = dict(LAYER) | {"draft_vocab_size": DRAFT}
    stored = original(numbers(EAGLE3, "lm_head.weight"))
    folder = write(tmp_path, settings, stored)
    assert read_head(folder, layers=32).config.states == (2, 16, 29)
    with pytest.raises(OutriderError, match="does not name the states"):
        read_head(folder)
    for given, states in (([1, 3, 5], (2, 4, 6)), ([2, 4, 5], (2, 4, 5))):
        nested = {"eagle_config": {"eagle_aux_hidden_state_layer_ids": given}}
        write(tmp_path, settings | nested, stored)
        assert read_head(folder).config.states == states


def test_tensors_may_have_a_prefix_and_no_map(tmp_path: Path) -> None:
    whole = {"draft_vocab_size": None, "target_hidden_size": None}
    stored = {f"model.{name}": one for name, one in STORED.items() if name not in ("d2t", "t2d")}
    stored["lm_head.weight"] = torch.randn(VOCAB, WIDTH)
    del stored["model.lm_head.weight"]
    file = read_head(write(tmp_path, speculators(EAGLE3) | whole, stored))
    assert torch.equal(file.tensors["ids"], torch.arange(VOCAB, dtype=torch.int32))
    assert file.verifier == Verifier(
        name_or_path="maker/target",
        architectures=("LlamaForCausalLM",),
        hidden_size=WIDTH,
        vocab_size=VOCAB,
    )


@pytest.mark.method("eagle1")
@pytest.mark.parametrize("bias", [True, False])
def test_an_original_file_of_eagle1_means_what_its_definition_says(
    tmp_path: Path, *, bias: bool
) -> None:
    """Embedding first, no norm before attention, none after the layer, the whole vocabulary."""
    config = tiny(HeadKind.EAGLE1, states=(6,), target_vocab=DRAFT, fuse_bias=bias)
    stored = numbers(config, "embed_tokens.weight")
    del stored["ids"]
    settings = dict(LAYER) | {"vocab_size": DRAFT}
    names = {f"model.{name}" if bias else name: tensor for name, tensor in stored.items()}
    extra = {"layers.0.self_attn.rotary_emb.inv_freq": torch.ones(2)}
    file = read_head(write(tmp_path, settings, names | extra), layers=6)
    assert (file.format, file.config.kind) == ("original eagle1", HeadKind.EAGLE1)
    assert file.config.states == (6,) and file.config.draft_vocab == DRAFT
    assert isinstance(file.config, HeadConfig) and file.config.fuse_bias is bias
    generator = torch.Generator().manual_seed(3)
    states = torch.randn(5, WIDTH, generator=generator)
    head = torch.randn(DRAFT, WIDTH, generator=generator)
    tokens = torch.tensor([3, 1, 7, 0, 3])
    later = NONE
    for given in (states[:, None], None):
        logits, outputs = run(file, given, tokens, later, head)
        expected, after = eagle1(stored, states if given is not None else later, tokens, head)
        assert torch.allclose(logits, expected, atol=1e-5)
        assert torch.allclose(outputs, after, atol=1e-5)
        later = outputs


@pytest.mark.method("eagle1")
def test_an_original_file_of_eagle1_that_does_not_fit(tmp_path: Path) -> None:
    config = tiny(HeadKind.EAGLE1, states=(6,), target_vocab=DRAFT)
    stored = numbers(config, "embed_tokens.weight")
    del stored["ids"]
    settings = dict(LAYER) | {"vocab_size": DRAFT}
    with pytest.raises(OutriderError, match="does not name the number of layers"):
        read_head(write(tmp_path, settings, stored))
    norm = {"layers.0.input_layernorm.weight": torch.ones(WIDTH)}
    with pytest.raises(OutriderError, match=r"unexpected tensor layers\.0\.input_layernorm"):
        read_head(write(tmp_path, settings, stored | norm), layers=6)
    del stored["layers.0.mlp.up_proj.weight"]
    with pytest.raises(OutriderError, match=r"lacks tensor layers\.0\.mlp\.up_proj"):
        read_head(write(tmp_path, settings, stored), layers=6)
