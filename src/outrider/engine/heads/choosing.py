"""Heads among the models of `load`: they need their target, so they are loaded after it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from outrider.core.errors import OptionError, OutriderError
from outrider.engine.heads.probe import check_head
from outrider.models.checkpoints.json_file import is_there, read_object
from outrider.models.checkpoints.safetensors.folder import open_folder
from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.models.cpu.native import NativeDecoder
from outrider.models.heads.formats.reading import open_head, read_head
from outrider.models.heads.formats.recognising import (
    PREFIX,
    by_config,
    is_original_eagle1,
)
from outrider.models.heads.formats.verifying import check_verifier
from outrider.models.heads.loading import HeadPair, run_head
from outrider.models.loading import ModelSource
from outrider.models.memory import Demand
from outrider.models.sources.families import families_folder
from outrider.protocols import LanguageModel

FOLLOWERS = "followers.safetensors"
"""The file beside a head that `successors` begin with."""

_READS_STATES = (
    "fc.weight",
    "heads.0.blocks.0.weight",
    "0.0.linear.weight",
    "enter.query.weight",
    "heads.0.state.weight",
)
"""Ends of the names of matrices whose inputs are all states that a head reads."""

Tiers = Sequence[tuple[str, ModelSource]]


@dataclass(frozen=True, slots=True)
class Chosen:
    """The head that drafts.

    Attributes:
        folder: its files.
        given: whether the user names it; a head that ships is used only where it fits.
    """

    folder: Path
    given: bool


def take_head(tiers: Tiers) -> tuple[list[tuple[str, ModelSource]], Chosen | None]:
    """Split the tiers: models, and the head that is given as the draft model, if one is.

    Raises:
        UnsupportedCheckpointError: the draft model is a head of a format that does not run.
        OptionError: a head is given as another tier.
    """
    models: list[tuple[str, ModelSource]] = []
    head: Chosen | None = None
    for number, (name, source) in enumerate(tiers):
        folder = _folder_of_head(source)
        if folder is None:
            models.append((name, source))
            continue
        if not number or name != "draft":
            raise OptionError(
                f"{source} is a draft head and is given as the {name}",
                hint="Give it as draft=..., with the model it was trained for as the target",
            )
        head = Chosen(folder, given=True)
    return models, head


def _folder_of_head(source: ModelSource) -> Path | None:
    """Return the folder of a head; None for anything else."""
    if not isinstance(source, str | Path):
        return None
    folder = Path(source).expanduser()
    file = folder / "config.json"
    if not folder.is_dir() or not is_there(file):
        return None
    config = read_object(file)
    if by_config(config, str(file)) is not None:
        return folder
    named = bool({"draft_vocab_size", "eagle_config"} & set(config))
    if not named and config.get("num_hidden_layers") != 1:
        return None
    # original heads of EAGLE do not name their format
    names = {name.removeprefix(PREFIX) for name in open_folder(folder).tensors}
    if any(name.startswith("midlayer.") for name in names):
        return folder if named else None
    return folder if is_original_eagle1(names) else None


def head_demand(chosen: Chosen) -> Demand:
    """Estimate the memory of a head from the shapes of its tensors, with the states that the caches
    of its target keep."""
    tensors = open_head(chosen.folder).tensors
    numbers = sum(tensor.num_elements for tensor in tensors.values())
    keys = sum(t.shape[0] for name, t in tensors.items() if name.endswith("k_proj.weight"))
    reading = next((name for name in tensors if name.endswith(_READS_STATES)), None)
    shape = () if reading is None else tensors[reading].shape
    states = shape[1] if len(shape) == 2 else 0
    normed = any(n.removeprefix(PREFIX) in ("norm.weight", "mtp.norm.weight") for n in tensors)
    if reading is not None and reading.endswith("fc.weight") and not normed:
        states //= 2  # heads without last norm fuse one state and an embedding of the same size
    return Demand(
        tier="head",
        weights=numbers * torch.float32.itemsize,  # as they are read, before they are packed
        cache=(2 * keys + states) * torch.float32.itemsize,
    )


def load_head(
    chosen: Chosen, target: LanguageModel, tokenizer: Tokenizer | None
) -> HeadPair | None:
    """Load a head beside its target; None if it was not asked for and does not fit.

    Raises:
        CheckpointError: its files cannot be read.
        StrategyError: it is for another target.
    """
    states = target.hidden_states
    try:
        file = read_head(chosen.folder, layers=None if states is None else states.num_layers)
        check_verifier(file, target, tokenizer=tokenizer)
        name, grouped = chosen.folder.name, file.grouped
        pair = run_head(file.config, file.tensors, target, name=name, grouped=grouped)
        check_head(pair, chosen.folder, tokenizer)
    except OutriderError:
        if chosen.given:
            raise
        return None
    if is_there(chosen.folder / FOLLOWERS):
        pair.head.followers = chosen.folder / FOLLOWERS
    return pair


def shipped_head(target: LanguageModel, tokenizer: Tokenizer | None) -> HeadPair | None:
    """Return a head that ships with the package, beside the target for which it was trained.

    None if there is none, or if the target does not run in compiled code, where the steps of a head
    are cheap.
    """
    if tokenizer is None or not isinstance(target, NativeDecoder):
        return None
    for folder in shipped_folders():
        if not _is_named(folder, tokenizer):
            continue
        if (pair := load_head(Chosen(folder, given=False), target, tokenizer)) is not None:
            return pair
    return None


def _is_named(folder: Path, tokenizer: Tokenizer) -> bool:
    """Whether config.json names this tokenizer, so that the weights need be read."""
    own = read_object(folder / "config.json").get("outrider")
    return isinstance(own, dict) and own.get("tokenizer") == tokenizer.fingerprint


def check_alone(chosen: Chosen, changed: bool) -> None:
    """Raise `OptionError` for a head beside guidance, selection, layer skipping or a
    coprocessor."""
    if changed:
        raise OptionError(
            f"the head {chosen.folder} reads states of the plain target, but guidance, selection, "
            "layer skipping or a coprocessor changes what the target reads",
            hint="Leave out one of the two",
        )


def shipped_folders() -> list[Path]:
    """Return the folders of the heads that ship with the package."""
    return sorted(file.parent for file in (families_folder() / "heads").glob("*/config.json"))
