"""`outrider info`: shows what a model is and what it needs."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from outrider.cli.options.options import option
from outrider.cli.ui.render import Screen, print_json
from outrider.core.errors import CheckpointError

if TYPE_CHECKING:
    import torch

    from outrider.models.checkpoints.checkpoint import Checkpoint

CACHE_TOKENS = 1024
"""Number of tokens for which the cache memory is shown ("1k tokens")."""

_OURS = "outrider"
_THEIRS = "transformers"


def info(
    model: Annotated[
        str, typer.Argument(help="A folder, a hub name, a known model (smollm2), or a family name.")
    ],
    dtype: Annotated[str, option(panel="Runtime", help="Dtype for the memory estimate.")] = "auto",
    device: Annotated[
        str,
        option(panel="Runtime", help="Device for the memory estimate; dtype auto depends on it."),
    ] = "auto",
    json: Annotated[bool, option("--json", panel="Output", help="Print one JSON object.")] = False,
) -> None:
    """Show what a model is, what runs it, and how much memory it takes.

    Only headers are read, no weights. A hub name is downloaded if it is not
    in the cache. A family name shows each of its models.

    For example:

      outrider info tiny
      outrider info ./big --dtype bfloat16 --json
    """
    from outrider.models.checkpoints.opening import open_checkpoint
    from outrider.models.loading import resolve_device, resolve_dtype

    kind = resolve_dtype(dtype, resolve_device(device))
    found = [
        facts(name, open_checkpoint(folder), dtype, kind)
        for name, folder in folders_of(model).items()
    ]
    if json:
        print_json({"models": found})
    else:
        _print(found, Screen())


def folders_of(model: str) -> dict[str, Path]:
    """Return names and folders: the tiers of a family, or the single model."""
    from outrider.models.sources.families import families_folder, family
    from outrider.models.sources.finding import local_folder

    if (families_folder() / model / "target").is_dir():
        return {f"{model}/{tier}": folder for tier, folder in family(model).items()}
    return {model: local_folder(model)}


def facts(name: str, checkpoint: "Checkpoint", asked: str, dtype: "torch.dtype") -> dict[str, Any]:
    """Collect facts from the settings and the headers of the weights."""
    from outrider.models.checkpoints.defaults import end_ids
    from outrider.models.checkpoints.window import read_window
    from outrider.models.memory import Demand, planned_dtype, text_config

    config = text_config(checkpoint.config)
    planned = planned_dtype(checkpoint, asked, dtype)
    demand = Demand.of_checkpoint(name, checkpoint, planned)
    runner, reason = runner_of(checkpoint)
    stored = Counter[str]()
    for tensor in checkpoint.tensors.values():
        stored[tensor.dtype] += tensor.nbytes
    return {
        "name": name,
        "path": str(checkpoint.path),
        "architecture": (checkpoint.config.get("architectures") or [None])[0],
        "model_type": checkpoint.config.get("model_type"),
        "parameters": checkpoint.num_parameters,
        "vocabulary": config.get("vocab_size"),
        "context": demand.context_length,
        "context_reason": read_window(config).reason,
        "end_ids": list(end_ids(checkpoint.generation, checkpoint.config)),
        "stored_dtype": stored.most_common(1)[0][0] if stored else None,
        "stored_dtypes": dict(stored.most_common()),
        "stored_bytes": checkpoint.total_bytes,
        "runner": runner,
        "reason": reason,
        "dtype": str(dtype).removeprefix("torch.") if planned == dtype else "stored",
        "weights_bytes": demand.weights,
        "cache_bytes_per_1k_tokens": demand.cache * CACHE_TOKENS,
        "quality": qualities(checkpoint),
        "fingerprint": checkpoint.fingerprint,
    }


def qualities(checkpoint: "Checkpoint") -> dict[str, dict[str, float]]:
    """Return what earlier loads have measured: by dtype, the divergence from float32."""
    from outrider.models.cpu.formats import FORMATS
    from outrider.models.quality import known_quality

    found = {name: known_quality(checkpoint, known) for name, known in FORMATS.items()}
    return {name: asdict(quality) for name, quality in found.items() if quality is not None}


def runner_of(checkpoint: "Checkpoint") -> tuple[str | None, str]:
    """Return the runner and the reason: Outrider's decoder, else `transformers`, else None."""
    from outrider.models.llama.decoder import supports

    ours = supports(checkpoint.config)
    if ours is None:
        return _OURS, "its architecture is one that Outrider runs itself"
    if checkpoint.path.is_file():  # GGUF
        return None, ours
    try:
        _check_transformers(checkpoint)
    except CheckpointError as error:
        return None, f"{ours}; {error.problem}"
    return _THEIRS, ours


def _check_transformers(checkpoint: "Checkpoint") -> None:
    """Raise `CheckpointError` if `transformers` cannot run the model for Outrider."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig

    from outrider.models.checkpoints.folder_files import explain_code
    from outrider.models.transformers.pretrained import quiet, refuse_unfit

    try:
        with quiet():
            config: Any = AutoConfig.from_pretrained(checkpoint.path, trust_remote_code=False)
    except Exception as error:  # a wrong value in a file may raise anything
        explain_code(str(checkpoint.path), error)
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CheckpointError(f"transformers does not support it: {reason[:160]}") from error
    kind: Any = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    refuse_unfit(config, checkpoint.path.name, kind)
    if kind is None:
        raise CheckpointError(f"transformers has no causal language model of {config.model_type}")


def _print(found: list[dict[str, Any]], screen: Screen) -> None:
    from rich.table import Table

    for figures in found:
        table = Table(title=figures["name"], title_justify="left", show_header=False)
        for label, value in _lines(figures).items():
            table.add_row(label, value)
        screen.out.print(table, markup=False)


def _lines(figures: Mapping[str, Any]) -> dict[str, str]:
    dtype = figures["dtype"]
    measured = [
        f"{name}: KL {found['kl']:.4f}, the same best token at {found['agreement']:.1%}"
        for name, found in figures["quality"].items()
    ]
    missing = "not measured; the first load with --dtype auto on the CPU measures it"
    return {
        "folder": figures["path"],
        "architecture": str(figures["architecture"] or figures["model_type"]),
        "parameters": f"{figures['parameters']:,}",
        "vocabulary": f"{figures['vocabulary']:,} tokens" if figures["vocabulary"] else "unknown",
        "context": _context(figures),
        "ends at tokens": ", ".join(map(str, figures["end_ids"])) or "none",
        "on disk": f"{_size(figures['stored_bytes'])}: {_stored(figures['stored_dtypes'])}",
        "runs through": f"{figures['runner'] or 'nothing'}: {figures['reason']}",
        f"weights in {dtype}": _size(figures["weights_bytes"]),
        "quality": "\n".join(measured) or missing,
        "cache": f"{_size(figures['cache_bytes_per_1k_tokens'])} for 1k tokens",
    }


def _stored(sizes: Mapping[str, int]) -> str:
    """Show the types of the weights by their bytes, largest first."""
    if len(sizes) == 1:
        return next(iter(sizes))
    return ", ".join(f"{dtype} {_size(nbytes)}" for dtype, nbytes in sizes.items()) or "no weights"


def _context(figures: Mapping[str, Any]) -> str:
    if not figures["context"]:
        return f"unknown: {figures['context_reason']}"
    return f"{figures['context']:,} tokens ({figures['context_reason']})"


def _size(nbytes: int) -> str:
    for unit, exponent in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if nbytes >= 1 << exponent:
            return f"{nbytes / (1 << exponent):.1f} {unit}"
    return f"{nbytes} bytes"
