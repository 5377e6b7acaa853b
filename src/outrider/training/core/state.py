"""Atomic checkpoints of training: safetensors for tensors, JSON for counters."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from outrider.core.errors import OptionError, writing


def save_checkpoint(
    path: Path,
    models: Mapping[str, nn.Module],
    optimizers: Mapping[str, Optimizer],
    counters: Mapping[str, Any],
) -> None:
    """Write one file atomically."""
    tensors: dict[str, Tensor] = {}
    for name, model in models.items():
        for key, parameter in model.named_parameters():
            tensors[f"model/{name}/{key}"] = parameter.detach().contiguous()
    for name, optimizer in optimizers.items():
        for index, entries in optimizer.state_dict()["state"].items():
            for key, value in entries.items():
                tensors[f"optimizer/{name}/{index}/{key}"] = torch.as_tensor(value).contiguous()
    save_tensors(path, tensors, {"counters": json.dumps(dict(counters))})


def save_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Write one file of tensors atomically."""
    partial = path.with_suffix(".partial")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            save_file(dict(tensors), partial, metadata=metadata)
        except SafetensorError as error:
            raise OSError(str(error)) from None
        os.replace(partial, path)


def load_checkpoint(
    path: Path, models: Mapping[str, nn.Module], optimizers: Mapping[str, Optimizer]
) -> dict[str, Any]:
    """Load `models` and `optimizers` from a file and return its counters."""
    states: dict[str, dict[int, dict[str, Tensor]]] = {name: {} for name in optimizers}
    with safe_open(path, framework="pt") as file, torch.no_grad():
        counters = json.loads(file.metadata()["counters"])
        for name, model in models.items():
            for key, parameter in model.named_parameters():
                parameter.copy_(file.get_tensor(f"model/{name}/{key}"))
        for key in file.keys():  # noqa: SIM118 - the handle is no mapping
            kind, name, *rest = key.split("/")
            if kind == "optimizer" and name in states:
                states[name].setdefault(int(rest[0]), {})[rest[1]] = file.get_tensor(key)
    for name, optimizer in optimizers.items():
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": states[name], "param_groups": groups})
    return counters


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically."""
    partial = path.with_suffix(".partial")
    with writing(path):
        partial.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
        os.replace(partial, path)


def read_json(path: Path) -> Any:
    """Read JSON, or return an empty dictionary if there is no file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


@contextmanager
def only_run(folder: Path) -> Iterator[None]:
    """Lock `folder` for this process; raise `OptionError` if another one trains there."""
    try:
        import fcntl
    except ImportError:  # Windows has no advisory locks; the folder is then not locked.
        yield
        return
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            hint = "Wait for it, or give another --out"
            raise OptionError(f"another run is active in {folder}", hint=hint) from error
        yield
