"""The files of a bottleneck."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from outrider.core.errors import writing
from outrider.protocols.trained import TrainedFiles, read_trained

KIND, FORMAT = "bottleneck", "outrider-bottleneck-1"
"""Name of the files, and the value of `format` in `bottleneck.json`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Which states a memory reads.

    Attributes:
        model: fingerprint of the model; empty: the states come from elsewhere.
        layer: which layer, as in `HiddenStates`.
        form: what the model reads, with `{text}` where the text stands; the state is that of the
            last token.
    """

    model: str = ""
    layer: int = 0
    form: str = "{text}"


def write_files(
    folder: Path, tensors: Mapping[str, Tensor], labels: tuple[str, ...], origin: Origin
) -> None:
    """Write both files, each completely or not at all. Raises `OptionError`."""
    facts = {"format": FORMAT, "labels": list(labels), "origin": asdict(origin)}
    weights, page = (folder / f"{KIND}.{end}" for end in ("safetensors", "json"))
    parts = [one.with_name(f".{one.name}.{os.getpid()}.part") for one in (weights, page)]
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            save_file({name: one.contiguous() for name, one in tensors.items()}, parts[0])
            parts[1].write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
            os.replace(parts[0], weights)
            os.replace(parts[1], page)
        except SafetensorError as error:
            raise OSError(str(error)) from None
        finally:
            for part in parts:
                part.unlink(missing_ok=True)


def read_files(folder: str | Path) -> tuple[TrainedFiles, tuple[str, ...], Origin]:
    """Read both files. Raises `CheckpointError` if they are missing or damaged."""
    files = read_trained(folder, KIND, FORMAT)
    labels, origin = files.facts.get("labels"), files.facts.get("origin")
    named = isinstance(labels, list) and all(isinstance(one, str) for one in labels)
    if not named or not labels or len({*labels}) < len(labels):
        raise files.damaged(f"labels are {labels!r:.60}, and different names are expected")
    known = {"model": str, "layer": int, "form": str}
    if not isinstance(origin, dict) or {k: type(v) for k, v in origin.items()} != known:
        raise files.damaged(f"origin is {origin!r:.60}")
    return files, tuple(labels), Origin(**origin)
