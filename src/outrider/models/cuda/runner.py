"""Runs work with static shapes repeatedly: called, or captured and replayed.

Work reads and writes buffers at fixed addresses and returns nothing. Before work is prepared, its
inputs must be parked (`Inputs.park`), because a capture runs it a few times.
"""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch

Work = Callable[[], None]

_WARMUPS = 2
"""Runs before a capture: libraries initialize in the first."""


@runtime_checkable
class Runner(Protocol):
    """Prepares work so that it can run repeatedly."""

    def prepare(self, work: Work) -> Work:
        """Return work that does the same as `work` on the content of its buffers at that time."""
        ...


class EagerRunner:
    """Calls the work directly: on devices without graphs, and for debugging."""

    def prepare(self, work: Work) -> Work:
        """Return `work` unchanged: nothing is captured."""
        return work


class CapturedRunner:
    """Captures work into CUDA graphs.

    All graphs of a runner share one memory pool, which is safe because they run one after another
    and keep nothing in it: results go to buffers outside. Warm-up and capture use a separate
    stream; a replay runs on the stream of the caller.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def prepare(self, work: Work) -> Work:
        """Capture `work`; the result replays it."""
        with torch.cuda.device(self._device):
            self._warm_up(work)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(
                graph,
                pool=self._pool,
                stream=self._stream,
                capture_error_mode="thread_local",  # other threads may allocate at the same time
            ):
                work()
        return graph.replay

    def _warm_up(self, work: Work) -> None:
        caller = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(caller)
        with torch.cuda.stream(self._stream):
            for _ in range(_WARMUPS):
                work()
        caller.wait_stream(self._stream)


def runner_for(device: torch.device) -> Runner:
    """Return a runner that uses graphs if the device has them."""
    return CapturedRunner(device) if device.type == "cuda" else EagerRunner()
