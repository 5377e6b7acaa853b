"""Files of heads of Chimera."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from outrider.core.errors import OutriderError
from outrider.models.heads.chimera.config import ChimeraConfig
from outrider.models.heads.config import HeadKind
from outrider.models.heads.formats.head_file import Verifier
from outrider.models.heads.formats.layers import read_layer
from outrider.models.heads.formats.reading import read_head
from outrider.models.heads.formats.writing import write_head
from outrider.models.heads.medusa.config import RANKS
from outrider.models.llama.decoder import Decoder
from tests.models.heads.chimera.setups import PARTS
from tests.models.heads.formats.last_state import check_last_state
from tests.models.heads.formats.setups import DRAFT, LAYER, VOCAB, WIDTH
from tests.models.heads.setups import LAYERS, make_target

pytestmark = pytest.mark.method("chimera")


def ours(**changes: Any) -> tuple[ChimeraConfig, dict[str, Tensor]]:
    """A head with random tensors."""
    options: dict[str, Any] = {
        "kind": HeadKind.CHIMERA,
        "layer": read_layer(LAYER, DRAFT, "of a test"),
        "states": (6,),
        "target_width": WIDTH,
        "target_vocab": VOCAB,
        "heads": 2,
    }
    config = ChimeraConfig(**options | changes)
    drawn = torch.Generator().manual_seed(5)
    tensors = {n: 0.3 * torch.randn(s, generator=drawn) for n, s in config.shapes().items()}
    tensors["ids"] = torch.arange(DRAFT, dtype=torch.int32) * 3
    return config, tensors | {"accuracies": torch.rand(config.heads, RANKS, generator=drawn)}


@pytest.mark.parametrize("bits", [None, 8])
@pytest.mark.parametrize("parts", PARTS)
def test_what_is_written_is_read(tmp_path: Path, bits: int | None, parts: str) -> None:
    config, tensors = ours(**PARTS[parts])
    target = Verifier(name_or_path="maker/target", architectures=("A",), tokenizer="abc")
    write_head(tmp_path, config, tensors, target, bits=bits, card="# A", trained={"prompts": 3})
    file = read_head(tmp_path)
    found = file.config
    assert isinstance(found, ChimeraConfig) and file.trained == {"prompts": 3}
    for name in ("kind", "states", "heads", "trigram", "context", "target_width", "target_vocab"):
        assert getattr(found, name) == getattr(config, name), name
    assert found.shapes() == config.shapes() and file.format == "chimera"
    assert file.verifier.tokenizer == "abc" and set(file.tensors) == set(tensors)
    for name, tensor in tensors.items():
        off = float((file.tensors[name].float() - tensor.float()).abs().max())
        assert off < (0.02 if bits else 1e-9), name
    assert ("heads.1.output.weight" in file.grouped) is (bits is not None)
    assert torch.equal(file.tensors["accuracies"], tensors["accuracies"])


DAMAGED: dict[str, tuple[dict[str, Any], str]] = {
    "more heads": ({"heads": 3}, "accuracies .* has shape"),
    "fewer heads": ({"heads": 1}, "accuracies .* has shape|unexpected tensor heads.1"),
    "no heads": ({"heads": None}, "heads null"),
    "parts": ({"context": False}, "unexpected tensor layers.0"),
    "trigram": ({"trigram": False}, "encoder.mix.weight .* has shape"),
    "states": ({"eagle_aux_hidden_state_layer_ids": [1, 2]}, "the last state of its target"),
    "layer": ({"transformer_layer_config": None}, "transformer_layer_config"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_files_give_one_line(tmp_path: Path, case: str) -> None:
    changes, message = DAMAGED[case]
    write_head(tmp_path, *ours(), Verifier(), bits=None, card="")
    config = json.loads((tmp_path / "config.json").read_text()) | changes
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(OutriderError, match=message) as caught:
        read_head(tmp_path)
    assert "\n" not in str(caught.value)


def test_four_bits_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OutriderError, match="Chimera heads are not written with 4") as caught:
        write_head(tmp_path / "head", *ours(), Verifier(), bits=4, card="")
    assert "\n" not in str(caught.value) and not (tmp_path / "head").exists()


def test_a_head_of_another_state_is_refused(tmp_path: Path) -> None:
    """Alike in size, it reads a state that is not the last one of this target."""
    target = Decoder.load(make_target(tmp_path / "target"), dtype=torch.float32)
    assert target.hidden_states is not None
    width = target.hidden_states.width
    layer = read_layer(LAYER | {"hidden_size": width}, DRAFT, "of a test")
    sizes = {"layer": layer, "target_width": width, "target_vocab": target.info.vocab_size}
    check_last_state(tmp_path / "head", target, LAYERS, lambda states: ours(states=states, **sizes))
