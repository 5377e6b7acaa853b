"""Measures the cost of a forward over several rows, relative to a single row and to the floor.

The floor is the time to read every weight once at the memory bandwidth of this machine, measured in
the same run: no forward that reads its weights from memory can be faster.
"""

from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any

import torch

from outrider.bench.memory import bandwidth_gb_s
from outrider.bench.models import OpenModels, Tier
from outrider.core.errors import OptionError
from outrider.models.checkpoints.opening import open_checkpoint
from outrider.models.costs import forward_seconds
from outrider.models.cpu.formats import FORMATS
from outrider.models.quality import known_quality
from outrider.protocols import LanguageModel

WIDTHS = (1, 2, 4, 8, 16, 32)
CONTEXT = 200


def verify_cost(
    model: LanguageModel,
    tier: Tier,
    *,
    bandwidth: float,
    threads: int,
    widths: Sequence[int] = WIDTHS,
    context: int = CONTEXT,
    repeats: int = 15,
    limit: float | None = None,
) -> dict[str, Any]:
    """Measure one model; return plain data.

    Args:
        model: the model to time.
        tier: its tier, with its size.
        bandwidth: 10^9 bytes per second, measured in this run.
        threads: number of threads to report.
        widths: numbers of rows of the forwards, including 1.
        context: tokens cached before the rows.
        repeats: timed runs of each width.
        limit: seconds after which no further round of runs begins.

    Returns:
        `model`, `parameters`, `dtype`, `threads` (at most), `threads_by_rows` (if the model
        chooses), `context`, `cost_scale`, `ms` (median milliseconds by width), `verify_cost` (over
        that of one row), `floor_ms`, `bandwidth_gb_s`, `floor_share` (floor over the time of one
        row).
    """
    seconds = forward_seconds(model, widths, context=context, repeats=repeats, limit=limit)
    ms = {str(n): 1000 * s for n, s in seconds.items()}
    floor = tier.weight_bytes / (bandwidth * 1e9) * 1000
    return {
        "model": tier.source,
        "parameters": tier.parameters,
        "dtype": tier.dtype,
        "threads": threads,
        "threads_by_rows": _chosen(model, seconds),
        "context": context,
        "cost_scale": tier.label,
        "ms": ms,
        "verify_cost": {n: value / ms["1"] for n, value in ms.items() if n != "1"},
        "floor_ms": floor,
        "floor_share": floor / ms["1"],
        "bandwidth_gb_s": bandwidth,
        "kl_to_float32": _quality(tier),
    }


def _quality(tier: Tier) -> float | None:
    """Return the mean divergence from float32; None if it has not been measured."""
    if tier.dtype not in FORMATS or tier.build is not None:
        return None
    quality = known_quality(open_checkpoint(tier.folder), FORMATS[tier.dtype])
    return None if quality is None else quality.kl


def _chosen(model: LanguageModel, widths: Iterable[int]) -> dict[str, int] | None:
    """Return the threads of a forward by its rows, for the runner that measures the best number."""
    threads_of = model.info.threads_of
    return None if threads_of is None else {str(n): threads_of(n) for n in widths}


def tier_costs(
    opened: OpenModels, *, context: int = CONTEXT, repeats: int = 15, limit: float = 5.0
) -> dict[str, Any]:
    """Return the bandwidth and, for each tier, the result of `verify_cost`."""
    threads = used_threads(opened.settings.threads)
    device = opened.models["target"].info.device
    bandwidth = bandwidth_gb_s(threads, device)
    return {
        name: verify_cost(
            model,
            opened.tiers[name],
            bandwidth=bandwidth,
            threads=threads,
            context=context,
            repeats=repeats,
            limit=limit,
        )
        for name, model in opened.models.items()
    }


def beside_llama_cpp(
    opened: OpenModels, *, context: int = CONTEXT, repeats: int = 15, turns: int = 3
) -> dict[str, Any]:
    """Measure `verify_cost` of the target and llama.cpp's times of the same model, alternating.

    Adds `rivals` (median milliseconds by width) and `over_llama_cpp`: Outrider's time of n rows
    over llama.cpp's time of *one*, the time that a drafted round has to beat.

    Raises:
        OptionError: llama.cpp is not installed, or the model was not written to a folder.
    """
    from outrider.bench.rivals.conversion import gguf_file, install_line
    from outrider.bench.rivals.llamacpp_session import llama_cpp_forward_ms

    if line := install_line(("llama_cpp", "gguf")):
        raise OptionError("llama.cpp is not installed", hint=f"Run: {line}")
    tier, threads = opened.tiers["target"], used_threads(opened.settings.threads)
    if tier.build is not None:
        raise OptionError(
            "llama.cpp reads only models in folders, but this one is in memory",
            hint="Use --device cpu",
        )
    file = gguf_file(tier.folder, "q8_0")
    ours: list[dict[str, Any]] = []
    theirs: list[dict[int, float]] = []
    for _ in range(turns):
        ours.append(tier_costs(opened, context=context, repeats=repeats, limit=4.0)["target"])
        theirs.append(
            llama_cpp_forward_ms(file, WIDTHS, context=context, threads=threads, repeats=repeats)
        )
    found = ours[-1]
    found["ms"] = {n: median(turn["ms"][n] for turn in ours) for n in found["ms"]}
    found["verify_cost"] = {n: found["ms"][n] / found["ms"]["1"] for n in found["verify_cost"]}
    found["floor_share"] = found["floor_ms"] / found["ms"]["1"]
    rival = {str(n): median(turn[n] for turn in theirs) for n in WIDTHS}
    found["rivals"] = {"llama.cpp-q8_0": rival}
    found["over_llama_cpp"] = {n: ms / rival["1"] for n, ms in found["ms"].items()}
    return found


def used_threads(asked: int | None) -> int:
    """Return the CPU threads that every system may use. Outrider may choose fewer if they are
    faster.
    """
    return asked or torch.get_num_threads()
