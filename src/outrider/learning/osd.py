"""Online speculative decoding: a draft model that is trained on the requests that it drafts for."""

import logging
import os
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

from outrider.core.checks import Range
from outrider.core.errors import OptionError
from outrider.core.types import Verified
from outrider.learning.losses import LOSSES
from outrider.learning.records import Correction, Example, correction_of, examples_of
from outrider.learning.trainable import WEIGHTS, Trainable
from outrider.models.checkpoints.checkpoint import Checkpoint
from outrider.models.cpu.native import NativeDecoder
from outrider.models.cpu.packing import NativeParts
from outrider.protocols import Request
from outrider.protocols.method import Method, Paper

log = logging.getLogger("outrider.learning")

_OPEN = 256
"""Unfinished requests whose corrections are kept."""
_WAITING = 4
"""Updates for which finished requests are kept; older requests are dropped."""
_CORRECTIONS = 1024
"""Corrections of one request that are kept."""
_SAVED_AFTER = 16
"""Updates after which the weights are saved."""
_LOWEST = 19
"""The priority of the thread that trains, as `nice` counts it."""

_COUNTS = ("updates", "swaps", "corrections", "requests")

_RATE = Range(0.0, above=True, high=1.0, hint="Give a rate above 0, such as 1e-4")
_REQUESTS = Range(1, whole=True, hint="Give at least 1 request for an update")
_LENGTH = Range(8, whole=True, hint="Give at least 8 tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class Osd:
    """How a draft model is trained while it is used.

    Attributes:
        rate: learning rate of AdamW, constant.
        requests: number of finished requests whose corrections make one update.
        length: most tokens of a text in one forward of training.
        loss: `forward`, `reverse` or `js` (`learning/losses.py`).
        background: train on a thread of low priority, also while requests run. Without it,
            training runs between requests only.

    Raises:
        OptionError: a value out of range.
    """

    rate: float = 1e-4
    requests: int = 8
    length: int = 256
    loss: str = "forward"
    background: bool = False

    def __post_init__(self) -> None:
        _RATE.check("rate", self.rate)
        _REQUESTS.check("requests", self.requests)
        _LENGTH.check("length", self.length)
        if self.loss not in LOSSES:
            raise OptionError(f"loss is {self.loss!r:.40}", hint=f"Give {', '.join(LOSSES)}")


@dataclass(slots=True)
class _Open:
    """An unfinished request, and the corrections of its draft model."""

    request: Request
    corrections: list[Correction] = field(default_factory=list[Correction])


class OsdLearner:
    """A `Learner` that distills the target into the draft model, at the places where the target
    refused its tokens.

    The target's rows there have been computed by verification, so that training runs the draft
    model only. The kernels read packed weights; training changes a float32 copy, which is packed
    after each update and takes effect in `swap`, between two rounds. Caches of the draft model are
    then read again.

    An error of training is logged and ends learning; requests go on.

    Attributes:
        off: why learning has ended; empty while it goes on.
    """

    def __init__(
        self,
        config: Osd,
        model: NativeDecoder,
        checkpoint: Checkpoint,
        *,
        source: str = "draft",
        folder: Path | None = None,
    ) -> None:
        """Prepare the float32 copy.

        Args:
            config: the options.
            model: the draft model; its weights are replaced.
            checkpoint: what `model` was loaded from.
            source: the name under which its tokens are counted (`Draft.sources`).
            folder: where the weights are stored; those that are there already are used from the
                first round on. None stores nothing.

        Raises:
            OptionError: the draft model cannot be trained.
            CheckpointError: the checkpoint, or the folder, cannot be read.
        """
        self.config, self.off = config, ""
        self._model, self._source, self._folder = model, source, folder
        self._copy = Trainable(checkpoint, config.rate)
        self._open: dict[int, _Open] = {}
        self._finished: deque[list[Example]] = deque(maxlen=_WAITING * config.requests)
        self._running: Iterator[None] | None = None
        self._thread: threading.Thread | None = None
        self._ready: NativeParts | None = None
        self._counts: dict[str, int] = dict.fromkeys(_COUNTS, 0)
        if folder is not None and (folder / WEIGHTS).is_file():
            self._copy.resume(folder)
            self._ready = self._copy.packed(model.dtype)

    @property
    def counts(self) -> Mapping[str, int]:
        """`updates` of the copy, `swaps` of the weights in use, `corrections` and
        finished `requests` that were recorded."""
        return dict(self._counts)

    # -- between and in rounds ----------------------------------------------------------------

    def swap(self) -> None:
        """Let the draft model use the newest weights, if they are not in use yet."""
        ready, self._ready = self._ready, None
        if ready is not None:
            self._model.use_weights(ready)
            self._counts["swaps"] += 1

    def observe(self, requests: Sequence[Request], verified: Sequence[Verified]) -> None:
        """Record where the target refused a token of the draft model, and its row there."""
        if self.off:
            return
        for request, seen in zip(requests, verified, strict=True):
            if not request.prompt.plain or request.draft_prompt is not None:
                continue  # the draft model reads another text
            written = len(request.prompt), len(request.output)
            found = correction_of(*written, seen, self._source, self._model.info.vocab_size)
            if found is not None:
                self._record(request, found)

    def _record(self, request: Request, found: Correction) -> None:
        known = self._open.setdefault(id(request), _Open(request))
        if len(known.corrections) < _CORRECTIONS:
            known.corrections.append(found)
            self._counts["corrections"] += 1
        while len(self._open) > _OPEN:
            self._open.pop(next(iter(self._open)))

    def note(self, request: Request) -> None:
        """Keep the corrections of a finished request for the next update."""
        known = self._open.pop(id(request), None)
        if known is None or self.off:
            return
        text = [*request.prompt.token_ids, *request.output]
        if examples := examples_of(text, known.corrections, self.config.length):
            self._finished.append(examples)
            self._counts["requests"] += 1
        if self.config.background:
            self._begin_thread()

    # -- training -------------------------------------------------------------------------------

    def work(self, seconds: float) -> bool:
        """Train for about `seconds`: an update pauses after each text. On a thread, only begin."""
        if self.config.background:
            self._begin_thread()
            return False
        deadline = perf_counter() + seconds
        while self._advance():
            if perf_counter() >= deadline:
                return True
        return False

    def _advance(self) -> bool:
        """Train with one text; return whether the update is not finished, or another is due."""
        if self._running is None:
            if not self._due:
                return False
            self._running = self._update(self._batch())
        try:
            next(self._running)
        except StopIteration:
            self._running = None
        except Exception as error:  # whatever fails in training, requests go on
            self._fail(error)
        return self._running is not None or self._due

    @property
    def _due(self) -> bool:
        return not self.off and len(self._finished) >= self.config.requests

    def _batch(self) -> list[Example]:
        parts = [self._finished.popleft() for _ in range(self.config.requests)]
        return [example for part in parts for example in part]

    def _update(self, batch: Sequence[Example]) -> Iterator[None]:
        """Make one update of the copy, pack it, and store it where this is due."""
        yield from self._copy.update(batch, LOSSES[self.config.loss])
        self._ready = self._copy.packed(self._model.dtype)
        self._counts["updates"] += 1
        if self._folder is not None and self._counts["updates"] % _SAVED_AFTER == 0:
            self._copy.save(self._folder)

    def _begin_thread(self) -> None:
        """Train on a thread of low priority, if an update is due and none runs."""
        if not self._due or (self._thread is not None and self._thread.is_alive()):
            return
        batch = self._batch()
        self._thread = threading.Thread(
            target=self._train_aside, args=(batch,), name="outrider-learning", daemon=True
        )
        self._thread.start()

    def _train_aside(self, batch: Sequence[Example]) -> None:
        # A thread has a priority of its own on Linux only; elsewhere that of the process stays.
        if hasattr(os, "setpriority") and os.uname().sysname == "Linux":
            with suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOWEST)
        try:
            for _ in self._update(batch):
                pass
        except Exception as error:  # whatever fails in training, requests go on
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        self.off = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        self._running = None
        log.exception("learning has ended")

    # -- storage --------------------------------------------------------------------------------

    def save(self, folder: str | Path) -> None:
        """Write the newest weights as a checkpoint, which `load(draft=...)` reads.

        Raises:
            OptionError: the system refuses to write there.
        """
        self._wait()
        self._copy.save(Path(folder).expanduser())

    def close(self) -> None:
        """Wait for the update that runs; store the weights if a folder was given."""
        self._wait()
        if self._folder is not None and self._counts["updates"]:
            self._copy.save(self._folder)

    def _wait(self) -> None:
        if self._thread is not None:
            self._thread.join()


METHOD = Method(
    name="osd",
    cls=Osd,
    summary="trains the draft model on the tokens that the target corrected, while it serves",
    paper=Paper("Online Speculative Decoding", "2310.07177"),
    needs="a draft model in the compiled runner",
    memory="16 bytes for each parameter of the draft model",
)
