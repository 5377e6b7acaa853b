"""The training loop of one stage: schedule, checkpoints, progress, and a clean stop."""

import dataclasses
import json
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from outrider.core.errors import OutriderError, writing
from outrider.training.core.config import Stage
from outrider.training.core.optim import make_optimizers
from outrider.training.core.state import load_checkpoint, only_run, save_checkpoint


class TrainingStopped(OutriderError):
    """A stop signal ended training; a checkpoint was written.

    Attributes:
        number: the signal.
    """

    number = int(signal.SIGINT)


class StopSignal:
    """Records SIGTERM and SIGINT, so that training stops after the current step.

    The second signal goes to the earlier handler. Signals that are ignored stay so.

    Attributes:
        asked: whether training should stop.
    """

    def __init__(self) -> None:
        self.asked = False
        self._number = int(signal.SIGINT)

    def __enter__(self) -> "StopSignal":
        self._before = {name: signal.getsignal(name) for name in (signal.SIGTERM, signal.SIGINT)}
        for name, handler in self._before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(name, self._ask)
        return self

    def __exit__(self, kind: object, error: object, _: object) -> None:
        if isinstance(error, TrainingStopped):
            error.number = self._number
        for name, handler in self._before.items():
            signal.signal(name, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            signal.signal(number, self._before[signal.Signals(number)])
            signal.raise_signal(number)
        self.asked, self._number = True, number


@dataclass(frozen=True, kw_only=True, slots=True)
class StageRun:
    """Functions and data that one stage needs besides its configuration.

    `step(row)` adds up gradients of the batch that begins with row number `row` of the stage and
    returns metrics to be averaged; `evaluate()` returns held-out metrics; `at_minutes_do()` is
    called when the stage has run for each of `at_minutes`.
    """

    name: str
    folder: Path
    stage: Stage
    models: Mapping[str, nn.Module]
    optimizers: Mapping[str, Optimizer]
    step: Callable[[int], dict[str, float]]
    evaluate: Callable[[], dict[str, float]]
    stop: StopSignal
    checkpoint_minutes: float = 5.0
    evaluate_minutes: float = 5.0
    at_minutes: tuple[float, ...] = ()
    at_minutes_do: Callable[[], None] | None = None
    clip_norm: float = 1.0


@dataclass(kw_only=True, slots=True)
class _Counters:
    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    marks: int = 0


def run_stage(run: StageRun) -> dict[str, Any]:
    """Train until the tokens or the minutes of the stage are used up; resume an interrupted stage.

    Returns the final counters and held-out metrics. Raises `TrainingStopped` after a stop signal,
    when the checkpoint is on disk.
    """
    return _Loop(run).run()


def train_one(
    name: str,
    model: nn.Module,
    stage: Stage,
    stop: StopSignal,
    step: Callable[[int], dict[str, float]],
    evaluate: Callable[[], dict[str, float]] = dict,
    **where: Any,
) -> dict[str, Any]:
    """Run `run_stage` for a single model with the usual optimizers; `where` is passed to
    `StageRun`.
    """
    model.train()
    return run_stage(
        StageRun(
            name=name,
            stage=stage,
            models={name: model},
            optimizers=make_optimizers(model, name),
            step=step,
            evaluate=evaluate,
            stop=stop,
            **where,
        )
    )


def learning_rate(stage: Stage, tokens: int, seconds: float) -> float:
    """Return the rate: warm-up over `warmup_tokens`, then linear in the larger of both
    progresses.
    """
    progress = tokens / stage.tokens
    if stage.max_minutes is not None:
        progress = max(progress, seconds / (60 * stage.max_minutes))
    rate = stage.learning_rate + (stage.final_learning_rate - stage.learning_rate) * min(
        progress, 1.0
    )
    if tokens < stage.warmup_tokens:
        rate *= (tokens + 1) / (stage.warmup_tokens + 1)
    return rate


class _Loop:
    def __init__(self, run: StageRun) -> None:
        self.given = run
        self.path = run.folder / f"{run.name}.safetensors"
        self.at = _Counters()
        if self.path.is_file():
            self.at = _Counters(**load_checkpoint(self.path, run.models, run.optimizers))
        self.saved = self.evaluated = self.clock = time.monotonic()
        self.recent: dict[str, float] = {}
        self.recent_steps = 0
        self.recent_mark = (self.at.tokens, self.at.seconds)

    def run(self) -> dict[str, Any]:
        run, stage = self.given, self.given.stage
        while not self._finished():
            self._one_step()
            now = time.monotonic()
            self.at.seconds += now - self.clock
            self.clock = now
            if run.stop.asked:
                self._save()
                raise TrainingStopped(f"stopped in stage {run.name}", hint="Run again to resume")
            if self.at.step % 20 == 0:
                self._report({})
            self._periodic(now)
        metrics = run.evaluate()
        self._report(metrics)
        self._save()
        return {**dataclasses.asdict(self.at), **metrics, "tokens_planned": stage.tokens}

    def _finished(self) -> bool:
        stage = self.given.stage
        late = stage.max_minutes is not None and self.at.seconds >= 60 * stage.max_minutes
        return late or self.at.tokens >= stage.tokens

    def _one_step(self) -> None:
        run = self.given
        rate = learning_rate(run.stage, self.at.tokens, self.at.seconds)
        metrics = run.step(self.at.tokens // run.stage.sequence_length)
        for model in run.models.values():
            norm = nn.utils.clip_grad_norm_(model.parameters(), run.clip_norm)
            metrics["grad_norm"] = float(norm)
        for optimizer in run.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.at.step += 1
        self.at.tokens += run.stage.batch * run.stage.sequence_length
        self.recent_steps += 1
        for key, value in metrics.items():
            self.recent[key] = self.recent.get(key, 0.0) + value
        self.recent["lr"] = rate * self.recent_steps

    def _periodic(self, now: float) -> None:
        run = self.given
        if now - self.evaluated >= 60 * run.evaluate_minutes:
            self._report(run.evaluate())
            self.evaluated = time.monotonic()
        if now - self.saved >= 60 * run.checkpoint_minutes:
            self._save()
        due = [mark for mark in run.at_minutes[self.at.marks :] if self.at.seconds >= 60 * mark]
        if due and run.at_minutes_do is not None:
            self.at.marks += len(due)
            run.at_minutes_do()

    def _save(self) -> None:
        run = self.given
        save_checkpoint(self.path, run.models, run.optimizers, dataclasses.asdict(self.at))
        self.saved = time.monotonic()

    def _report(self, heldout: dict[str, float]) -> None:
        tokens, seconds = self.recent_mark
        speed = (self.at.tokens - tokens) / max(self.at.seconds - seconds, 1e-9)
        means = {key: value / max(self.recent_steps, 1) for key, value in self.recent.items()}
        if self.recent_steps:
            self.recent_mark = (self.at.tokens, self.at.seconds)
        self.recent, self.recent_steps = {}, 0
        line = {
            "stage": self.given.name,
            **dataclasses.asdict(self.at),
            "tokens_per_second": round(speed),
            "eta_minutes": round(self._remaining(speed) / 60, 1),
            **{key: round(value, 5) for key, value in {**means, **heldout}.items()},
        }
        path = self.given.folder / "metrics.jsonl"
        with writing(path), path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        print("  ".join(f"{key}={value}" for key, value in line.items()), flush=True)

    def _remaining(self, speed: float) -> float:
        stage = self.given.stage
        by_tokens = (stage.tokens - self.at.tokens) / max(speed, 1e-9)
        if stage.max_minutes is None:
            return by_tokens
        return max(0.0, min(by_tokens, 60 * stage.max_minutes - self.at.seconds))


@contextmanager
def run_in(folder: Path, threads: int = 0) -> Iterator[StopSignal]:
    """Make the folder of a run and lock it, with so many threads of PyTorch (0: as they are).

    Raises:
        OptionError: another run is active there, or the folder cannot be written.
    """
    if threads:
        torch.set_num_threads(threads)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with StopSignal() as stop, only_run(folder):
        yield stop


class Clock:
    """Seconds of training, of this run and of those that it continues."""

    def __init__(self, before: float) -> None:
        self._before, self._begun = before, time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds so far."""
        return self._before + time.monotonic() - self._begun
