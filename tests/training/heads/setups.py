"""What the tests of training share: a small run of a tiny target."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from outrider.models.checkpoints.opening import open_checkpoint
from outrider.training.heads.answers import AnswerSettings, read_numbers
from outrider.training.heads.config import HeadRecipe, HeadTraining
from outrider.training.heads.data import RecordedTexts
from outrider.training.heads.loss import chain_loss
from outrider.training.heads.prompts import TrainingPrompt
from outrider.training.heads.run import HeadTrainer
from outrider.training.heads.start import Teacher

STATES, LAYERS = (1, 2, 4), 4
SETTINGS = AnswerSettings(tokens=10**6, longest=14, longest_prompt=60, batch=3)
QUIET: Any = lambda _: None  # noqa: E731


def prompts(count: int) -> Iterator[TrainingPrompt]:
    for number in range(count):
        content = "abc " * (30 if number == 5 else 1) + str(number)
        yield TrainingPrompt(f"kind{number % 2}", [{"role": "user", "content": content}])


def numbers_in(folder: Path) -> list[int]:
    return [n for file in sorted(folder.glob("texts-*")) for n in read_numbers(file)]


def recipe(kind: str = "hinted", **options: Any) -> HeadRecipe:
    training = {"single": 2.0, "unrolled": 1.5, "steps": 2, "held_out": 2, "texts": 3, **options}
    return HeadRecipe(
        name="head",
        target="target",
        prompts=(),
        kind=kind,
        states=STATES,
        draft_vocab=40,
        train_vocab=30,
        training=HeadTraining(**training),
    )


def trainer(source: Path, texts: Path, folder: Path, asked: HeadRecipe, stop: Any = None) -> Any:
    folder.mkdir(exist_ok=True)
    teacher = Teacher.of(open_checkpoint(source))
    found = RecordedTexts(texts, 288, 3, hints=asked.training.hints)
    return HeadTrainer(asked, teacher, found, folder, QUIET, stop)


def loss_of(made: Any) -> float:
    """The loss of all training texts in two steps."""
    places = made.training
    ids = made._vocabulary(places)
    made.head.lm_head = made.teacher.lm_head[ids]
    batch = made.texts.batch(places)
    with torch.no_grad():
        return float(chain_loss(made.head, made._rotary, batch, made.teacher, ids, 2))


def line(error: Any) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text
