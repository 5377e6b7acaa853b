"""How replicas share the machine: threads, places and memory are divided among them."""

from dataclasses import replace

import torch

from outrider.engine.serving.settings import ServingSettings
from outrider.kernels.library import cores

_LEAST_CACHE = 128
"""Fewest tokens of the caches of an engine."""


def threads_of(replicas: int, threads: int | None) -> int:
    """Return the threads of each replica; `threads` are those of all, None: one for each core."""
    return max((cores() if threads is None else threads) // replicas, 1)


def gpus_of(replicas: int, device: torch.device) -> float:
    """Return the share of a GPU that each replica gets; at most one GPU, and 0 on the CPU."""
    return min(torch.cuda.device_count() / replicas, 1.0) if device.type == "cuda" else 0.0


def share(settings: ServingSettings, replicas: int) -> ServingSettings:
    """Return the settings of each replica, if `settings` are those of all together."""
    cache = settings.cache_tokens
    return replace(
        settings,
        max_num_seqs=-(-settings.max_num_seqs // replicas),
        cache_tokens=None if cache is None else max(cache // replicas, _LEAST_CACHE),
        memory_share=settings.memory_share / replicas,
    )
