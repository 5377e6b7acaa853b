"""Tiny heads beside a tiny target, in PyTorch and compiled."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from _pytest.mark.structures import ParameterSet
from torch import Tensor

from outrider import kernels
from outrider.core.types import NO_IDS, Prompt, as_ids
from outrider.models.checkpoints.opening import open_checkpoint
from outrider.models.cpu.native import NativeDecoder
from outrider.models.heads.cache import Following
from outrider.models.heads.config import LAYER, HeadConfig, HeadKind
from outrider.models.heads.formats.own import is_matrix
from outrider.models.heads.model import HeadModel, keeping_for
from outrider.models.heads.module import HeadModule
from outrider.models.heads.native import NativeHead
from outrider.models.llama.decoder import Decoder
from outrider.models.quantization.int4 import quantize_int4
from outrider.protocols import Segment
from outrider.training.heads.start import Teacher
from tests.models.setups.make_checkpoints import make_checkpoint

LAYERS, VOCAB, DRAFT = 4, 48, 30
SHAPE: dict[str, Any] = {
    "num_hidden_layers": LAYERS,
    "vocab_size": VOCAB,
    "std": 0.25,
    "max_position_embeddings": 64,
}

HEADS: dict[str, tuple[HeadKind, dict[str, Any]]] = {
    "hinted": (HeadKind.HINTED, {"norm_states": True}),
    "hinted-plain": (HeadKind.HINTED, {"states": (4,)}),
    "eagle3": (HeadKind.EAGLE3, {}),
    "eagle3-normed": (
        HeadKind.EAGLE3,
        {"norm_states": True, "norm_before_residual": True, "norm_output": True},
    ),
    "eagle3-fused": (HeadKind.EAGLE3, {"norm_fused": True}),
    "eagle3-stream": (HeadKind.EAGLE3, {"norm_before_residual": True}),
    "eagle1": (HeadKind.EAGLE1, {"states": (LAYERS,), "fuse_bias": True}),
    "fspad": (
        HeadKind.FSPAD,
        {"states": (LAYERS,), "fuse_bias": True, "sampling": True, "alignment": True},
    ),
    "mtp": (HeadKind.MTP, {"states": (LAYERS,)}),
}
"""Kinds and flags of heads; all of them read the target's states 1, 2 and 4, or those given."""

PARTS: dict[str, tuple[HeadKind, dict[str, Any]]] = {
    "eagle1-plain": (HeadKind.EAGLE1, {"states": (LAYERS,)}),
    "fspad-sampling": (HeadKind.FSPAD, {"states": (LAYERS,), "sampling": True}),
    "fspad-alignment": (HeadKind.FSPAD, {"states": (LAYERS,), "alignment": True}),
}
"""Heads that only tests of their parts use."""


@dataclass(frozen=True)
class Rig:
    """A head and its target, with what both are made from."""

    config: HeadConfig
    tensors: dict[str, Tensor]
    teacher: Teacher
    module: HeadModule
    target: Any
    head: HeadModel

    def reads(self, text: Sequence[int]) -> Any:
        """A cache of the target that has read all tokens of a text but the last one."""
        [cache] = self.target.start([Prompt(token_ids=tuple(text))])
        return cache

    def follows(self, text: Sequence[int]) -> Following:
        """A cache of the head behind the whole text, of which the head has read nothing yet."""
        cache = self.head.follow(self.reads(text))
        cache.commit(as_ids(text[1:]))
        return cache

    def rows(self, cache: Following, tokens: Sequence[int] = (), parents: Any = None) -> Tensor:
        """Logits of the rows of the tokens, after that of the text if it is not read yet."""
        known = cache.num_speculative
        segment = Segment(cache, as_ids(tokens), None if parents is None else as_ids(parents))
        want = np.arange(known - (not cache.fed), known + len(tokens))
        return self.head.forward([segment], [as_ids(want)])[0].logits


def needs_kernels() -> Any:
    """Skips a test where nothing is compiled."""
    return pytest.mark.skipif(not kernels.available(), reason=kernels.reason_missing())


def head_cases(runners: Sequence[str], names: Sequence[str] = tuple(HEADS)) -> list[ParameterSet]:
    """Test parameters `(head, runner)`, marked with the method of the head."""
    return [
        pytest.param((name, runner), id=f"{name}-{runner}", marks=_marks(name, runner))
        for name in names
        for runner in runners
    ]


def _marks(name: str, runner: str) -> list[Any]:
    method = [pytest.mark.method(name.split("-")[0])] if not name.startswith("mtp") else []
    return method + ([] if runner == "torch" else [needs_kernels()])


def make_target(folder: Path, **options: Any) -> Path:
    """The files of a target."""
    return make_checkpoint(folder, "llama", **(SHAPE | options))


def head_config(teacher: Teacher, name: str, draft: int = DRAFT) -> HeadConfig:
    """The shape of one of the heads."""
    kind, changes = (HEADS | PARTS)[name]
    layer = replace(
        teacher.config,
        vocab_size=draft,
        num_layers=1,
        windows=teacher.config.windows[-1:],
        rotary=teacher.config.rotary[-1:],
        tied=False,
    )
    plain = HeadConfig(
        kind=kind,
        layer=layer,
        states=(1, 2, LAYERS),
        target_width=teacher.config.hidden_size,
        target_vocab=teacher.config.vocab_size,
    )
    return replace(plain, **changes)


def numbers(config: HeadConfig, seed: int = 5) -> dict[str, Tensor]:
    """Random tensors of a head; norms lie around 1, and all of them differ."""
    generator = torch.Generator().manual_seed(seed)
    shapes = config.shapes()
    if config.norm_states:
        shapes["fc_norm.weight"] = config.optional()["fc_norm.weight"]
    tensors: dict[str, Tensor] = {}
    for name, shape in shapes.items():
        drawn = torch.randn(shape, generator=generator)
        tensors[name] = 1 + 0.2 * drawn if "norm" in name else drawn * 1.5 / shape[-1] ** 0.5
    if config.predicts_states:  # no norm keeps what is fed back small
        for name in ("fc", f"{LAYER}self_attn.o_proj", f"{LAYER}mlp.down_proj"):
            tensors[f"{name}.weight"] *= 0.4
    order = torch.randperm(config.target_vocab, generator=generator)
    tensors["ids"] = order[: config.draft_vocab].sort().values.int()
    if "successors" in tensors:
        table = torch.randint(-1, config.target_vocab, (config.target_vocab,), generator=generator)
        tensors["successors"] = table.int()
    return tensors


def make_module(config: HeadConfig, tensors: dict[str, Tensor], teacher: Teacher) -> HeadModule:
    """The head with the embeddings and the output rows of its target."""
    rows = teacher.lm_head[tensors["ids"].long()]
    return HeadModule(config, tensors, lambda ids: F.embedding(ids, teacher.embed), rows)


def make_rig(folder: Path, name: str, runner: str, **changes: Any) -> Rig:
    """A head beside the target of a folder, by one of the runners torch, native, int8 and int4.

    Tensors of the head are replaced by those of `changes`, by their names.
    """
    teacher = Teacher.of(open_checkpoint(folder))
    config = head_config(teacher, name)
    tensors = numbers(config) | changes
    module = make_module(config, tensors, teacher)
    if runner == "torch":
        target = keeping_for(config, Decoder.load(folder, dtype=torch.float32))
        head: HeadModel = HeadModel(module, tensors, target, name)
    else:
        native = NativeDecoder.load(folder, dtype=torch.float32, threads=1)
        target = keeping_for(config, native)
        assert isinstance(target, NativeDecoder)
        dtype = torch.float32 if runner == "native" else torch.int8
        four = {n: quantize_int4(t) for n, t in tensors.items() if is_matrix(n, t)}
        head = NativeHead(module, tensors, target, name, dtype, four if runner == "int4" else {})
    return Rig(config, tensors, teacher, module, target, head)


def random_text(count: int, seed: int = 1, vocab: int = VOCAB) -> tuple[int, ...]:
    """A text with repetitions, so that there are hints of every level."""
    rng = np.random.default_rng(seed)
    text = rng.integers(0, vocab, count)
    half = count // 2
    text[half : half + half // 2] = text[: half // 2]
    return tuple(text.tolist())


def close(ours: Tensor, theirs: Tensor, tolerance: float) -> None:
    """Equal within `tolerance`; the tokens that cannot be drafted are the same."""
    assert ours.shape == theirs.shape
    finite = torch.isfinite(theirs)
    assert torch.equal(torch.isfinite(ours), finite)
    off = float((ours - theirs)[finite].abs().max())
    assert off <= tolerance, f"off by {off:.3g}"


def last_row(rig: Rig, cache: Following) -> Tensor:
    """Logits after the text of the cache."""
    return rig.head.forward([Segment(cache, NO_IDS)], [as_ids([-1])])[0].logits[0]
