"""`outrider train vizer`: a folder of images in, an adapter out. Interrupted runs go on."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from outrider.errors import OptionError
from outrider.models.loading import families_folder, local_folder, resolve_device
from outrider.training.loop import StopSignal, TrainingStopped
from outrider.training.mapper import Mapper, Vectors
from outrider.training.state import (
    load_checkpoint,
    only_run,
    read_json,
    save_checkpoint,
    write_json,
)
from outrider.training.subject import Subject
from outrider.training.vizer import (
    Mappers,
    adapt_step,
    collect,
    fit_mappers,
    look_again,
    make_optimizer,
)
from outrider.training.vizer_config import VizerConfig

Say = Callable[[str], None]
"""Told of progress, a line at a time."""

_COLLECTED_AT_ONCE = 32
_SHOWN = 12


@dataclass(frozen=True, slots=True)
class Example:
    """An image that is read when it is needed, and its caption where one is given."""

    path: Path
    caption: str | None = None

    def image(self) -> Any:
        """The RGB image. Raises `OptionError` for a bad file."""
        from outrider.vision.images import read_image

        return read_image(self.path)


@dataclass(frozen=True, slots=True)
class Split:
    """Examples of each phase; held-out ones are in neither."""

    held_out: list[Example]
    mapper: list[Example]
    adapt: list[Example]

    @classmethod
    def of(cls, examples: Sequence[Example], config: VizerConfig) -> "Split":
        """A split that depends on the seed and the names alone.

        Raises:
            OptionError: too few examples for a step beside those held out.
        """
        order = sorted(examples, key=lambda e: str(e.path))
        Random(f"vizer {config.seed}").shuffle(order)
        if len(order) < config.held_out + config.batch:
            raise OptionError(
                f"{len(order)} images are given; {config.held_out} are held out and a step takes "
                f"{config.batch}",
                hint="Give more images, or lower held_out and batch",
            )
        rest = order[config.held_out :]
        adapt = rest[-config.images :] if config.images else rest
        return cls(order[: config.held_out], rest[: config.mapper_images], adapt)


@dataclass(slots=True)
class _Progress:
    """Where phase B is."""

    step: int = 0
    seconds: float = 0.0
    best: float = float("-inf")
    best_step: int = -1
    stale: int = 0
    done: bool = False


@dataclass(slots=True)
class VizerRun:
    """One run in its folder.

    Attributes:
        subject: the model with LoRA.
        split: its images.
        folder: checkpoints, curve, card and adapter lie here.
        say: told of progress.
        stop: asked between two steps.
    """

    subject: Subject
    split: Split
    folder: Path
    say: Say
    stop: StopSignal
    _saved: float = field(default_factory=time.monotonic)

    @property
    def config(self) -> VizerConfig:
        """Its settings."""
        return self.subject.config

    # -- phase A --------------------------------------------------------------------------------

    def mappers(self) -> Mappers:
        """Collect what captions and images are, and fit both mappers."""
        given = self.config.method == "gt"
        data = self._vectors("mapper", self.split.mapper, given)
        held_out = self._vectors("held_out", self.split.held_out, given)
        mappers = fit_mappers(data, held_out, self.config)
        for name, found in mappers.figures.items():
            self.say(f"{name}: " + "  ".join(f"{k} {v:.4f}" for k, v in found.items()))
        for name, mapper in (("guide", mappers.guide), ("judge", mappers.judge)):
            save_file(mapper.state_dict(), self.folder / f"{name}.safetensors")
        write_json(self.folder / "mappers.json", mappers.figures)
        return mappers

    def _vectors(
        self, name: str, examples: Sequence[Example], given: bool
    ) -> tuple[Vectors, Vectors]:
        file = self.folder / f"{name}.vectors.safetensors"
        kept = load_file(file) if file.is_file() else {}
        done = len(kept["features"]) if kept else 0
        rows: dict[str, list[torch.Tensor]] = {k: [v] for k, v in kept.items()}
        while done < len(examples):
            part = examples[done : done + _COLLECTED_AT_ONCE]
            texts = [e.caption or "" for e in part] if given else None
            guide, judge = collect(self.subject, [e.image() for e in part], texts, done)
            found = (("guide", guide.states), ("judge", judge.states), ("features", guide.features))
            for key, tensor in found:
                rows.setdefault(key, []).append(tensor.cpu())
            done += len(part)
            self._pause(lambda: save_file(_joined(rows), file))
            self.say(f"phase A, {name}: {done} of {len(examples)} images")
        whole = _joined(rows)
        save_file(whole, file)
        device = self.subject.device
        return (
            Vectors(whole["guide"].to(device), whole["features"].to(device)),
            Vectors(whole["judge"].to(device), whole["features"].to(device)),
        )

    # -- phase B --------------------------------------------------------------------------------

    def adapt(self, mappers: Mappers) -> dict[str, Any]:
        """Train LoRA until the images are used up, or the score no longer rises."""
        config, subject = self.config, self.subject
        per_epoch = len(self.split.adapt) // config.batch
        steps = per_epoch * config.epochs
        optimizer, at = make_optimizer(subject), _Progress()
        trained = _Trained(subject)
        path = self.folder / "adapt.safetensors"
        if path.is_file():
            at = _Progress(**load_checkpoint(path, {"lora": trained}, {"adamw": optimizer}))
            self.say(f"phase B goes on at step {at.step}")
        images = [e.image() for e in self.split.held_out]
        base = self._look(mappers.judge, images, at) if at.step == 0 else self._first_captions()
        clock = time.monotonic()

        def save() -> None:
            counters = asdict(at)
            save_checkpoint(path, {"lora": trained}, {"adamw": optimizer}, counters)

        while at.step < steps and not at.done:
            part = self._batch(at.step, per_epoch)
            texts = [e.caption or "" for e in part] if config.method == "labels" else None
            found = adapt_step(
                subject,
                mappers.guide,
                optimizer,
                [e.image() for e in part],
                texts,
                step=at.step,
                steps=steps,
            )
            at.step += 1
            at.seconds += time.monotonic() - clock
            clock = time.monotonic()
            self._note({"step": at.step, "seconds": at.seconds, **found})
            if at.step % config.evaluate_every == 0 or at.step == steps:
                self._look(mappers.judge, images, at, base)
            self._pause(save)
        save()
        return asdict(at) | {"steps_planned": steps}

    def _batch(self, step: int, per_epoch: int) -> list[Example]:
        epoch, at = divmod(step, per_epoch)
        order = list(self.split.adapt)
        Random(f"vizer {self.config.seed} {epoch}").shuffle(order)
        return order[at * self.config.batch : (at + 1) * self.config.batch]

    def _look(
        self, judge: Mapper, images: Sequence[Any], at: _Progress, base: list[str] | None = None
    ) -> list[str]:
        """Judge captions of held-out images; keep the adapter if they are the best so far."""
        look = look_again(self.subject, judge, images, base)
        self._note({"step": at.step, "seconds": at.seconds, **look.figures})
        shown = "  ".join(f"{k} {v:.4f}" for k, v in look.figures.items())
        self.say(f"step {at.step}: {shown}  e.g. {look.captions[0]!r}")
        if at.step == 0:
            write_json(self.folder / "base_captions.json", look.captions)
            at.best = look.score
        elif look.score > at.best or at.best_step < 0:
            at.best = max(at.best, look.score)
            at.stale = at.stale if look.score < at.best else 0
            at.best_step = at.step
            self.subject.save(self.folder / "adapter")
            write_json(self.folder / "captions.json", look.captions)
        else:
            at.stale += 1
            at.done = at.stale >= self.config.patience
        return look.captions

    def _first_captions(self) -> list[str]:
        return read_json(self.folder / "base_captions.json")

    def _note(self, row: dict[str, Any]) -> None:
        with (self.folder / "curve.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({k: round(v, 6) for k, v in row.items()}) + "\n")

    def _pause(self, save: Callable[[], None]) -> None:
        """Save when it is time to, or when a stop is asked for."""
        late = time.monotonic() - self._saved > 60 * self.config.checkpoint_minutes
        if late or self.stop.asked:
            save()
            self._saved = time.monotonic()
        if self.stop.asked:
            raise TrainingStopped("stopped", hint="Run again to resume")


class _Trained(nn.Module):
    """LoRA's parameters under names that checkpoints can spell."""

    def __init__(self, subject: Subject) -> None:
        super().__init__()
        self.own = nn.ParameterDict(
            {name.replace(".", ":"): p for name, p in subject.trained.items()}
        )


def _joined(rows: dict[str, list[torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {key: torch.cat(tensors) for key, tensors in rows.items()}


def train_vizer(
    model: str | Path,
    examples: Sequence[Example],
    out: Path,
    config: VizerConfig,
    say: Say = print,
) -> dict[str, Any]:
    """Train an adapter for `model` and write it to `out/adapter`, in peft's format.

    An interrupted run goes on when it is started again with the same settings.

    Returns:
        What `out/run.json` says: settings, figures of both phases, seconds.

    Raises:
        OptionError: too few images, captions that are missing, or another run's folder.
        CheckpointError: a model that can not be trained.
        TrainingStopped: after a stop signal, with a checkpoint written.
    """
    _check(examples, config)
    split = Split.of(examples, config)
    out.mkdir(parents=True, exist_ok=True)
    with only_run(out), StopSignal() as stop:
        settings = asdict(config) | {"model": str(model), "images_given": len(examples)}
        _same_settings(out, settings)
        subject = Subject.load(_folder(model), config, resolve_device(config.device))
        run = VizerRun(subject, split, out, say, stop)
        mappers = run.mappers()
        finished = run.adapt(mappers)
        card = {
            "settings": settings,
            "torch": torch.__version__,
            "trained_parameters": sum(p.numel() for p in subject.trained.values()),
            "mappers": mappers.figures,
            "phase_b": finished,
        }
        write_json(out / "run.json", card)
    if finished["best_step"] < 0:
        raise OptionError("no adapter was written", hint="Give images for at least one step")
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
            f"method {config.method!r} reads captions, and {missing} has none",
            hint="Give --captions FILE with a line for each image, or use method g",
        )


def _same_settings(out: Path, settings: dict[str, Any]) -> None:
    known = read_json(out / "settings.json")
    if known and known != settings:
        odd = next(k for k in settings if known.get(k) != settings[k])
        raise OptionError(
            f"{out} holds a run with {odd} {known.get(odd)!r}, not {settings[odd]!r}",
            hint="Give another --out, or the same settings to go on",
        )
    write_json(out / "settings.json", settings)


def read_captions(file: Path) -> Iterator[Example]:
    """Examples of a file of JSON lines, `{"image": ..., "caption": ...}`; paths are relative to it.

    Raises:
        OptionError: there is no such file, or a line is something else.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeError) as error:
        raise OptionError(f"{file} can not be read: {error}", hint="Give JSON lines") from None
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            path, caption = Path(record["image"]), str(record["caption"])
        except (ValueError, KeyError, TypeError) as error:
            raise OptionError(
                f"line {number} of {file} is no caption ({type(error).__name__}: {error})",
                hint='Write {"image": "a.png", "caption": "a red star."}',
            ) from None
        yield Example(path if path.is_absolute() else file.parent / path, caption)
