"""`outrider info`: shows what a model is and what it needs."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from outrider.cli.options.numbers import share_or_count
from outrider.cli.options.options import option
from outrider.cli.ui.render import Screen, print_json, size
from outrider.cli.ui.supported import show_supported
from outrider.core.errors import CheckpointError, OptionError
from outrider.strategy.catalogue import names

if TYPE_CHECKING:
    import torch

    from outrider.models.caches.eviction.policy import KvPolicy
    from outrider.models.checkpoints.checkpoint import Checkpoint

CACHE_TOKENS = 1024
"""Number of tokens for which the cache memory is shown ("1k tokens")."""

_LENGTHS = (1024, 8192)
"""Tokens of texts for which the memory under a policy is shown, besides the window."""

_OURS = "outrider"
_THEIRS = "transformers"


def info(
    model: Annotated[
        str | None, typer.Argument(help="A folder, a hub name, a family name, or smollm2.")
    ] = None,
    supported: Annotated[
        bool,
        option("--supported", panel="Output", help="List the architectures that run, and how."),
    ] = False,
    dtype: Annotated[str, option(panel="Runtime", help="Dtype for the memory estimate.")] = "auto",
    cache_dtype: Annotated[
        str, option(panel="Runtime", help="Dtype of keys and values: auto, float32, ...")
    ] = "auto",
    context_length: Annotated[
        int | None,
        option(panel="Runtime", help="Tokens of a text; default: the model's window.", min=1),
    ] = None,
    kv_policy: Annotated[
        str | None,
        option(
            panel="Runtime",
            metavar="NAME|EXPRESSION",
            autocompletion=lambda: names("kv-policy"),
            help=f"Show the cache under this policy too: {', '.join(names('kv-policy'))}.",
        ),
    ] = None,
    kv_budget: Annotated[
        str | None,
        option(
            panel="Runtime",
            metavar="SHARE|ROWS",
            help="What --kv-policy keeps of each head, such as 25% or 1024.",
        ),
    ] = None,
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
      outrider info smollm2 --kv-policy snapkv --kv-budget 0.25
      outrider info --supported
    """
    if supported:
        show_supported(json=json)
        return
    if model is None:
        raise OptionError("no model is given", hint="Give a folder, or --supported for a list")
    from outrider.models.checkpoints.opening import open_checkpoint
    from outrider.models.devices import check_cache_dtype, resolve_device, resolve_dtype
    from outrider.strategy.making import make_kv_policy

    check_cache_dtype(cache_dtype)
    budget = None if kv_budget is None else share_or_count("kv_budget", kv_budget)
    policy = make_kv_policy(kv_policy, budget)
    place = resolve_device(device)
    kind = resolve_dtype(dtype, place)
    caches = Caches(dtype if place.type == "cpu" else "", kind, cache_dtype, context_length, policy)
    found = [
        facts(name, open_checkpoint(folder), dtype, kind)
        | caches.facts(name, open_checkpoint(folder))
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
    from outrider.models.denoisers.loading import is_denoiser
    from outrider.models.memory import Demand, planned_dtype, text_config
    from outrider.strategy.guiding import by_needs

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
        "guidance": by_needs() if runner and not is_denoiser(checkpoint) else {},
        "dtype": str(dtype).removeprefix("torch.") if planned == dtype else "stored",
        "weights_bytes": demand.weights,
        "quality": qualities(checkpoint),
        "fingerprint": checkpoint.fingerprint,
    }


@dataclass(frozen=True, slots=True)
class Caches:
    """What is asked of keys and values.

    Attributes:
        dtype: dtype of the weights as given; empty on a GPU.
        kind: that dtype, which caches have outside the compiled runner.
        cache_dtype: dtype of keys and values as given.
        context_length: most tokens of a text; None is the window.
        policy: which rows are kept; None: all.
    """

    dtype: str
    kind: "torch.dtype"
    cache_dtype: str
    context_length: int | None
    policy: "KvPolicy | None" = None

    def facts(self, name: str, checkpoint: "Checkpoint") -> dict[str, Any]:
        """Compute the bytes of keys and values, in float32 and in the dtype that `load` takes.

        What `auto` takes is known after the quality check of the first load; before, it is the
        smallest dtype that can pass the check.
        """
        import torch

        from outrider.models.memory import Demand

        reads = Demand.of_checkpoint(name, checkpoint, torch.float32)
        chosen, measured = self._chosen(checkpoint)
        one = Demand.of_checkpoint(name, checkpoint, self.kind, chosen).cache
        limit = reads.context_length or 0
        window = min(self.context_length or limit, limit)
        return {
            "cache_dtype": chosen,
            "cache_measured": measured,
            "cache_bytes_per_1k_tokens": one * CACHE_TOKENS,
            "cache_bytes_in_float32_per_1k_tokens": reads.cache * CACHE_TOKENS,
            "cache_window": window,
            "cache_bytes_of_window": one * window,
            **self._kept(checkpoint, one, window),
        }

    def _kept(self, checkpoint: "Checkpoint", one: int, window: int) -> dict[str, Any]:
        """Compute the bytes under the policy after prompts of some lengths, beside those of all
        rows; `one` are the bytes of a token."""
        from outrider.models.compressing import kept_bytes, shape_of

        if self.policy is None:
            return {}
        shape = shape_of(checkpoint)
        if shape is None:
            raise OptionError(
                f"the policy {self.policy} is given, and no runner of Outrider's own runs "
                f"{checkpoint.path.name}",
                hint="Leave it out",
            )
        kept = kept_bytes(self.policy, shape, one)
        tokens = [n for n in (*_LENGTHS, window) if n <= window or self.policy.moves]
        return {
            "kv_policy": str(self.policy),
            "kv_reads_whole": not self.policy.chunk,
            "kv_bytes": [
                {"tokens": n, "kept": kept(n), "full": one * n} for n in dict.fromkeys(tokens)
            ],
        }

    def _chosen(self, checkpoint: "Checkpoint") -> tuple[str, bool]:
        """Return the dtype of keys and values, and whether a choice of `auto` was measured."""
        from outrider.models.cpu.formats import FORMATS, lossless
        from outrider.models.llama.decoder import supports
        from outrider.models.quality import cache_candidates, known_quality

        if self.cache_dtype != "auto":
            return self.cache_dtype, True
        if supports(checkpoint.config) is not None or self.dtype not in ("auto", *FORMATS):
            floating = self.kind.is_floating_point
            return str(self.kind).removeprefix("torch.") if floating else "float32", True
        exact = lossless(checkpoint)
        weights = FORMATS["int8"] if exact.name != "stored" else exact
        weights = FORMATS.get(self.dtype, weights)
        for cache in cache_candidates(checkpoint, weights, self.context_length):
            quality = known_quality(checkpoint, weights, cache)
            if quality is None or quality.good:
                return cache, quality is not None
        return "float32", True


def qualities(checkpoint: "Checkpoint") -> dict[str, dict[str, float]]:
    """Return what earlier loads have measured: by dtypes, the divergence from float32."""
    from outrider.models.cpu.cache import CACHE_DTYPES
    from outrider.models.cpu.formats import FORMATS
    from outrider.models.quality import known_quality

    found = {
        name if cache == "float32" else f"{name}, cache {cache}": known_quality(
            checkpoint, known, cache
        )
        for name, known in FORMATS.items()
        for cache in CACHE_DTYPES
    }
    return {name: asdict(quality) for name, quality in found.items() if quality is not None}


def runner_of(checkpoint: "Checkpoint") -> tuple[str | None, str]:
    """Return the runner and the reason: Outrider's decoder, else `transformers`, else None."""
    from outrider.models.denoisers.loading import is_denoiser
    from outrider.models.llama.decoder import supports

    if is_denoiser(checkpoint):
        return _OURS, "it is a masked denoiser, which writes positions in any order"
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

    from outrider.models.checkpoints.folder_files import explain_code, quiet
    from outrider.models.transformers.pretrained import refuse_unfit

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
        "on disk": f"{size(figures['stored_bytes'])}: {_stored(figures['stored_dtypes'])}",
        "runs through": f"{figures['runner'] or 'nothing'}: {figures['reason']}",
        "guidance": _guidance(figures["guidance"]),
        f"weights in {dtype}": size(figures["weights_bytes"]),
        "quality": "\n".join(measured) or missing,
        f"cache in {figures['cache_dtype']}": _cache(figures),
        **_policy(figures),
    }


def _guidance(methods: Mapping[str, list[str]]) -> str:
    if not methods:
        return "none"
    alone, others = (", ".join(methods[kind]) for kind in ("alone", "with_others"))
    return f"{alone}; with another model of its vocabulary, or a store: {others}"


def _policy(figures: Mapping[str, Any]) -> dict[str, str]:
    if "kv_policy" not in figures:
        return {}
    parts = [
        f"{size(found['kept'])} for {found['tokens']:,} tokens, all rows {size(found['full'])}"
        for found in figures["kv_bytes"]
    ]
    if figures["kv_reads_whole"]:
        parts.append("while a prompt is read, all of its rows are held besides")
    return {f"cache under {figures['kv_policy']}": "; ".join(parts)}


def _cache(figures: Mapping[str, Any]) -> str:
    parts = [f"{size(figures['cache_bytes_per_1k_tokens'])} for 1k tokens"]
    if figures["cache_window"]:
        window = figures["cache_window"]
        parts.append(f"{size(figures['cache_bytes_of_window'])} for {window:,} tokens")
    if figures["cache_dtype"] != "float32":
        wide = figures["cache_bytes_in_float32_per_1k_tokens"]
        parts.append(f"float32: {size(wide)} for 1k tokens")
    if not figures["cache_measured"]:
        parts.append("if the quality check of the first load allows it")
    return "; ".join(parts)


def _stored(sizes: Mapping[str, int]) -> str:
    """Show the types of the weights by their bytes, largest first."""
    if len(sizes) == 1:
        return next(iter(sizes))
    return ", ".join(f"{dtype} {size(nbytes)}" for dtype, nbytes in sizes.items()) or "no weights"


def _context(figures: Mapping[str, Any]) -> str:
    if not figures["context"]:
        return f"unknown: {figures['context_reason']}"
    return f"{figures['context']:,} tokens ({figures['context_reason']})"
