"""`outrider train vizer`: trains an adapter from a folder of images; interrupted runs continue."""

import json
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from outrider.core.errors import OptionError, OutriderWarning, writing
from outrider.models.checkpoints.opening import open_checkpoint
from outrider.models.devices import resolve_device
from outrider.models.sources.families import families_folder
from outrider.models.sources.finding import local_folder
from outrider.training.core.loop import StopSignal, TrainingStopped
from outrider.training.core.state import (
    load_checkpoint,
    only_run,
    read_json,
    save_checkpoint,
    save_tensors,
    write_json,
)
from outrider.training.vizer.captioner import ImageBatch, TrainableCaptioner
from outrider.training.vizer.config import VizerConfig
from outrider.training.vizer.data import Example, Gallery, Say, Split, fingerprint, read_captions
from outrider.training.vizer.mapper import Mapper, Vectors
from outrider.training.vizer.vizer import (
    Mappers,
    adapt_step,
    collect,
    evaluate_again,
    fit_mappers,
    make_optimizer,
)

__all__ = ["Example", "Split", "VizerRun", "read_captions", "train_vizer"]

_LOOKED_AT_ONCE = 32


@dataclass(slots=True)
class _Progress:
    """The progress of phase B.

    Attributes:
        step: number of steps done.
        seconds: their duration.
        base: score of the base model.
        best: best score of the later evaluations, whose adapter is kept; None before the first.
        best_step: step of the best score.
        stale: evaluations since the last new maximum, including the score of the base.
        done: whether `stale` has reached the limit.
    """

    step: int = 0
    seconds: float = 0.0
    base: float = float("-inf")
    best: float | None = None
    best_step: int = -1
    stale: int = 0
    done: bool = False

    @property
    def helped(self) -> bool:
        """Whether an evaluation was better than the base."""
        return self.best is not None and self.best > self.base

    def judge(self, score: float) -> bool:
        """Record the score of an evaluation; return whether to keep its adapter."""
        keep = self.best is None or score > self.best
        rose = score > self.base and keep
        self.stale = 0 if rose else self.stale + 1
        if keep:
            self.best, self.best_step = score, self.step
        return keep


@dataclass(slots=True)
class VizerRun:
    """One run in its folder.

    Attributes:
        subject: the model with LoRA.
        split: the images.
        folder: folder of checkpoints, curve, card and adapter.
        say: called with each line of progress.
        stop: the stop signal, checked between two steps.
        gallery: encodes images, and records those left out.
    """

    captioner: TrainableCaptioner
    split: Split
    folder: Path
    say: Say
    stop: StopSignal
    gallery: Gallery
    _saved: float = field(default_factory=time.monotonic)

    @property
    def config(self) -> VizerConfig:
        """The settings of the model."""
        return self.captioner.config

    # -- phase A --------------------------------------------------------------------------------

    def mappers(self) -> Mappers:
        """Collect vectors of captions and images, and fit both mappers."""
        given = self.config.method == "gt"
        data = self._vectors("mapper", self.split.mapper, given)
        held_out = self._vectors("held_out", self.split.held_out, given)
        if len(held_out[0]) < 2:
            raise OptionError(
                f"only {len(held_out[0])} of the held-out images can be used",
                hint="Give more readable images, or raise held_out",
            )
        mappers = fit_mappers(data, held_out, self.config)
        for name, found in mappers.figures.items():
            self.say(f"{name}: " + "  ".join(f"{k} {v:.4f}" for k, v in found.items()))
        for name, mapper in (("guide", mappers.guide), ("judge", mappers.judge)):
            save_tensors(self.folder / f"{name}.safetensors", mapper.state_dict())
        write_json(self.folder / "mappers.json", mappers.figures)
        return mappers

    def _vectors(
        self, name: str, examples: Sequence[Example], given: bool
    ) -> tuple[Vectors, Vectors]:
        file = self.folder / f"{name}.vectors.safetensors"
        rows = {k: [v] for k, v in load_file(file).items()} if file.is_file() else {}
        done = int(rows.pop("done")[0]) if rows else 0

        def save() -> None:
            if rows:
                save_tensors(file, _joined(rows, done))

        while done < len(examples):
            kept, image_batch = self.gallery.evaluation(examples[done : done + _LOOKED_AT_ONCE])
            if image_batch is not None:
                texts = [e.caption or "" for e in kept] if given else None
                guide, judge = collect(self.captioner, image_batch, texts, done)
                parts = {
                    "guide": guide.states,
                    "judge": judge.states,
                    "features": image_batch.features,
                }
                for key, tensor in parts.items():
                    rows.setdefault(key, []).append(tensor.cpu())
            done = min(done + _LOOKED_AT_ONCE, len(examples))
            self.say(f"phase A, {name}: {done} of {len(examples)} images")
            self._pause(save)
        if not rows:
            raise OptionError(
                f"none of {len(examples)} images can be used", hint="The reasons are printed above"
            )
        save()
        whole = _joined(rows, done)
        device = self.captioner.device
        return (
            Vectors(whole["guide"].to(device), whole["features"].to(device)),
            Vectors(whole["judge"].to(device), whole["features"].to(device)),
        )

    # -- phase B --------------------------------------------------------------------------------

    def adapt(self, mappers: Mappers) -> dict[str, Any]:
        """Train LoRA until the images are used up or the score stops rising."""
        config, captioner = self.config, self.captioner
        per_epoch = len(self.split.adapt) // config.batch
        steps = per_epoch * config.epochs
        optimizer, at = make_optimizer(captioner), _Progress()
        trained = _Trained(captioner)
        path = self.folder / "adapt.safetensors"
        if path.is_file():
            at = _Progress(**load_checkpoint(path, {"lora": trained}, {"adamw": optimizer}))
            self.say(f"phase B continues at step {at.step}")
        self._cut_curve(at.step)
        base = self._look(mappers.judge, at) if at.step == 0 else self._first_captions()
        clock = time.monotonic()

        def save() -> None:
            counters = asdict(at)
            save_checkpoint(path, {"lora": trained}, {"adamw": optimizer}, counters)

        while at.step < steps and not at.done:
            kept, image_batch = self.gallery.evaluation(self._batch(at.step, per_epoch))
            texts = [e.caption or "" for e in kept] if config.method == "labels" else None
            found = dict[str, float]()
            if image_batch is not None:
                found = adapt_step(
                    captioner, mappers, optimizer, image_batch, texts, step=at.step, steps=steps
                )
            at.step += 1
            at.seconds += time.monotonic() - clock
            clock = time.monotonic()
            self._note({"step": at.step, "seconds": at.seconds, **found})
            if at.step % config.evaluate_every == 0 or at.step == steps:
                self._look(mappers.judge, at, base)
            self._pause(save)
        save()
        return asdict(at) | {"helped": at.helped, "steps_planned": steps}

    def _batch(self, step: int, per_epoch: int) -> list[Example]:
        epoch, at = divmod(step, per_epoch)
        order = list(self.split.adapt)
        Random(f"vizer {self.config.seed} {epoch}").shuffle(order)
        return order[at * self.config.batch : (at + 1) * self.config.batch]

    def _look(self, judge: Mapper, at: _Progress, base: list[str] | None = None) -> list[str]:
        """Score captions of held-out images; keep the adapter if the score is the best so far."""
        evaluation = evaluate_again(self.captioner, judge, self._held_out(), base)
        self._note({"step": at.step, "seconds": at.seconds, **evaluation.figures})
        shown = "  ".join(f"{k} {v:.4f}" for k, v in evaluation.figures.items())
        self.say(f"step {at.step}: {shown}  e.g. {evaluation.captions[0]!r}")
        if at.step == 0:
            write_json(self.folder / "base_captions.json", evaluation.captions)
            at.base = evaluation.score
            return evaluation.captions
        if at.judge(evaluation.score):
            self.captioner.save(self.folder / "adapter")
            write_json(self.folder / "captions.json", evaluation.captions)
        at.done = at.stale >= self.config.patience
        return evaluation.captions

    def _held_out(self) -> Iterator[ImageBatch]:
        """Encode held-out images again for each evaluation, to save memory."""
        images = self.split.held_out
        for start in range(0, len(images), _LOOKED_AT_ONCE):
            _, image_batch = self.gallery.evaluation(images[start : start + _LOOKED_AT_ONCE])
            if image_batch is not None:
                yield image_batch

    def _first_captions(self) -> list[str]:
        return read_json(self.folder / "base_captions.json")

    def _note(self, row: dict[str, Any]) -> None:
        path = self.folder / "curve.jsonl"
        with writing(path), path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({k: round(v, 6) for k, v in row.items()}) + "\n")

    def _cut_curve(self, step: int) -> None:
        """Remove entries of the curve after the checkpoint; these steps are repeated."""
        file = self.folder / "curve.jsonl"
        if not file.is_file():
            return
        *whole, _ = file.read_text(encoding="utf-8").split("\n")
        kept = [line + "\n" for line in whole if step and json.loads(line)["step"] <= step]
        file.write_text("".join(kept), encoding="utf-8")

    def _pause(self, save: Callable[[], None]) -> None:
        """Save a checkpoint if it is due or a stop is requested."""
        late = time.monotonic() - self._saved > 60 * self.config.checkpoint_minutes
        if late or self.stop.asked:
            save()
            self._saved = time.monotonic()
        if self.stop.asked:
            raise TrainingStopped("stopped", hint="Run again to resume")


class _Trained(nn.Module):
    """LoRA's parameters under names that are valid in checkpoints."""

    def __init__(self, captioner: TrainableCaptioner) -> None:
        super().__init__()
        self.own = nn.ParameterDict(
            {name.replace(".", ":"): p for name, p in captioner.trained.items()}
        )


def _joined(rows: dict[str, list[torch.Tensor]], done: int) -> dict[str, torch.Tensor]:
    """Join rows, and add the number of images that could be used."""
    return {k: torch.cat(tensors) for k, tensors in rows.items()} | {"done": torch.tensor(done)}


def train_vizer(
    model: str | Path,
    examples: Sequence[Example],
    out: Path,
    config: VizerConfig,
    say: Say = print,
) -> dict[str, Any]:
    """Train an adapter for `model` and write it to `out/adapter`, in peft's format.

    An interrupted run continues if it is started again with the same settings.

    Returns:
        The content of `out/run.json`: settings, figures of both phases, seconds.

    Raises:
        OptionError: there are too few images, captions are missing, or the folder belongs to
            another run.
        CheckpointError: the model cannot be trained.
        TrainingStopped: after a stop signal, with a checkpoint written.
    """
    _check(examples, config)
    split = Split.of(examples, config)
    folder = _folder(model)
    reads = config.method != "g"
    settings = asdict(config) | {
        "model": str(model),
        "model_fingerprint": open_checkpoint(folder).fingerprint,
        "images_given": len(examples),
        "images_fingerprint": fingerprint(examples, captions=reads),
    }
    _make_folder(out)
    with only_run(out), StopSignal() as stop:
        _check_settings(out, settings)
        captioner = TrainableCaptioner.load(folder, config, resolve_device(config.device))
        write_json(out / "settings.json", settings)
        if reads:
            _tell_of_cuts(captioner, [*split.mapper, *split.adapt, *split.held_out], say)
        run = VizerRun(captioner, split, out, say, stop, Gallery(captioner, say))
        mappers = run.mappers()
        finished = run.adapt(mappers)
        card = {
            "settings": settings,
            "torch": torch.__version__,
            "trained_parameters": sum(p.numel() for p in captioner.trained.values()),
            "images_left_out": run.gallery.left_out,
            "mappers": mappers.figures,
            "phase_b": finished,
        }
        write_json(out / "run.json", card)
    if left_out := len(run.gallery.left_out):
        say(f"{left_out} images were left out; run.json says why")
    if not finished["helped"]:
        warnings.warn(
            f"no evaluation on held-out captions was better than the base "
            f"({finished['base']:.4f}): the adapter of step {finished['best_step']} "
            f"({finished['best']:.4f}) does not improve the base",
            OutriderWarning,
            stacklevel=2,
        )
    return card


def _folder(model: str | Path) -> Path:
    family = families_folder() / str(model) / "target"
    return family if family.is_dir() else local_folder(model)


def _check(examples: Sequence[Example], config: VizerConfig) -> None:
    if config.method == "g":
        return
    missing = next((e.path for e in examples if not e.caption), None)
    if missing is not None:
        raise OptionError(
            f"method {config.method!r} reads captions, but {missing} has none",
            hint="Give --captions FILE with a line for each image, or use method g",
        )


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionError(
            f"{out} cannot be created: {error.strerror or error}", hint="Give another --out"
        ) from None


def _check_settings(out: Path, settings: dict[str, Any]) -> None:
    known = read_json(out / "settings.json")
    if known and known != settings:
        odd = next(k for k in settings if known.get(k) != settings[k])
        raise OptionError(
            f"{out} holds a run with {odd} {known.get(odd)!r}, not {settings[odd]!r}",
            hint="Give another --out, or the same settings to continue",
        )


def _tell_of_cuts(captioner: TrainableCaptioner, examples: Sequence[Example], say: Say) -> None:
    captions = {e.path: e.caption or "" for e in examples}
    longest = captioner.config.longest
    whole = captioner.encode(list(captions.values()), cut=False)
    if long := sum(len(ids) > longest for ids in whole):
        say(f"{long} of {len(captions)} captions are longer than {longest} tokens and are cut")
