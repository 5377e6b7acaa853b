"""How a piece of work with static shapes is run again and again: called, or captured and replayed.

Work reads and writes buffers that stay where they are and gives nothing back. Whoever has it
prepared parks its inputs first (`Inputs.park`), since capturing runs it a few times in earnest.
"""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch

Work = Callable[[], None]

_WARMUPS = 2
"""Runs before a capture: libraries set themselves up in the first."""


@runtime_checkable
class Runner(Protocol):
    """Makes work repeatable."""

    def prepare(self, work: Work) -> Work:
        """What does the same as `work`, on whatever its buffers hold by then."""
        ...


class EagerRunner:
    """Calls the work itself: on devices without graphs, and to find faults."""

    def prepare(self, work: Work) -> Work:
        """`work` as it is."""
        return work


class CapturedRunner:
    """Captures work into CUDA graphs.

    All graphs of a runner share one memory pool, which is safe because they run one after another
    and leave nothing in it: results go to buffers outside. Warm-up and capture use a stream of
    their own; a replay runs on the stream of whoever calls it.
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
                capture_error_mode="thread_local",  # other threads may allocate meanwhile
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
    """Graphs where the device has them."""
    return CapturedRunner(device) if device.type == "cuda" else EagerRunner()
