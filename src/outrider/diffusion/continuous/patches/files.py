"""Folders of models of patches: a configuration and a file of weights."""

import json
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from outrider.core.errors import CheckpointError, OptionError, one_line, writing
from outrider.diffusion.continuous.patches.config import Grid, PatchShape
from outrider.diffusion.continuous.patches.model import PatchModel

FORMAT = "outrider-patches-1"
CONFIG, WEIGHTS = "patches.json", "patches.safetensors"


def save_model(model: PatchModel, folder: Path) -> None:
    """Write a model. Raises `OptionError` if the folder cannot be written."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        facts = {"format": FORMAT, "grid": asdict(model.grid), "shape": asdict(model.shape)}
        (folder / CONFIG).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        tensors = {key: one.detach().contiguous() for key, one in model.named_parameters()}
        save_file(tensors, folder / WEIGHTS)


def load_model(folder: Path) -> PatchModel:
    """Read a model.

    Raises:
        CheckpointError: there is no such model, or its files are damaged or of another format.
    """
    try:
        facts = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        if not isinstance(facts, dict) or facts.get("format") != FORMAT:
            raise CheckpointError(f"{folder / CONFIG} is of another format", hint=_HINT)
        model = PatchModel(Grid(**facts["grid"]), PatchShape(**facts["shape"]))
        model.load_state_dict(load_file(folder / WEIGHTS))
    except FileNotFoundError:
        raise CheckpointError(f"there is no model of patches in {folder}", hint=_HINT) from None
    except (ValueError, KeyError, TypeError, RuntimeError, OSError, SafetensorError) as error:
        text = one_line(str(error).splitlines()[0] if str(error) else type(error).__name__)
        raise CheckpointError(f"{folder} is damaged: {text}", hint=_HINT) from None
    except OptionError as error:
        raise CheckpointError(f"{folder} is damaged: {error.problem}", hint=_HINT) from None
    if not all(bool(torch.isfinite(one).all()) for one in model.parameters()):
        raise CheckpointError(f"the weights in {folder} are not finite", hint=_HINT)
    return model.eval()


_HINT = "Give a folder from `outrider train patches`"
