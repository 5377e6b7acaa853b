"""`outrider train head`: answers of the target, the head, its files, and what it achieves."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import torch

from outrider.core.errors import OptionError
from outrider.engine.heads.choosing import FOLLOWERS
from outrider.engine.options import is_family
from outrider.memories.followers import Followers
from outrider.models.checkpoints.opening import open_checkpoint
from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.models.heads.config import HeadKind
from outrider.models.heads.formats.head_file import Verifier
from outrider.models.heads.formats.reading import read_head
from outrider.models.heads.formats.writing import write_head
from outrider.models.heads.loading import run_head
from outrider.models.loading import load_model
from outrider.models.sources.families import family
from outrider.models.sources.finding import local_folder
from outrider.training.core.config import read_table
from outrider.training.core.corpus import data_folder
from outrider.training.core.loop import StopSignal, run_in
from outrider.training.core.state import read_json, save_tensors, write_json
from outrider.training.heads.answers import Recorder, read_numbers, record
from outrider.training.heads.card import head_card
from outrider.training.heads.config import HeadRecipe
from outrider.training.heads.data import RecordedTexts
from outrider.training.heads.judge import Judged, judge
from outrider.training.heads.prompts import TrainingPrompt, training_prompts
from outrider.training.heads.run import TRAINING, HeadTrainer
from outrider.training.heads.start import Teacher

_STEPS = 5
"""Steps of a chain for which hints are looked up, and which are measured."""
_FOLLOWING, _OCCURRENCES = 3, 2
"""Tokens of the longest contexts whose followers are written beside the head, and the fewest
occurrences of a context."""
_RECORDED = ("target", "prompts", "states", "answers")
"""Options on which the recorded answers depend."""
_JUDGED = 24
"""Prompts on which the finished head is measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadRun:
    """One run of a recipe.

    Attributes:
        recipe: the options.
        source: folder or file of the target.
        data: folder of the data sets.
        folder: folder of the run.
        stop: whether it should stop.
        report: called with lines about the progress.
    """

    recipe: HeadRecipe
    source: Path
    data: Path
    folder: Path
    stop: StopSignal
    report: Callable[[str], None]

    def record(self, states: tuple[int, ...]) -> None:
        """Write the answers that are still missing, with hidden states of the target."""
        settings = self.recipe.answers
        target = load_model(self.source, threads=self.recipe.threads or None)
        recorder = Recorder.of(target, Tokenizer.load(self.source), states, settings)
        prompts = training_prompts(self.recipe.prompts, self.data, settings.seed)
        record(recorder, prompts, self.texts, self.report, self.stop)

    @property
    def texts(self) -> Path:
        """The folder of the recorded texts."""
        return self.folder / "texts"

    @property
    def files(self) -> Path:
        """The folder of the finished head."""
        return self.folder / self.recipe.name

    def unseen(self) -> list[TrainingPrompt]:
        """Return prompts after those of the recorded texts."""
        files = sorted(self.texts.glob("texts-*.safetensors"))
        last = max(number for file in files for number in read_numbers(file))
        prompts = training_prompts(self.recipe.prompts, self.data, self.recipe.answers.seed)
        return list(islice(prompts, last + 1, last + 1 + _JUDGED))

    def check_same(self) -> None:
        """Raise `OptionError` if the folder holds a run of another recipe; else note this one.

        More answers may be asked for, and the head may have another name. Training may change
        where none has begun.
        """
        now = json.loads(json.dumps(asdict(self.recipe)))
        for name in ("name", "out", "data", "threads"):
            del now[name]
        del now["answers"]["tokens"]
        file, trained = self.folder / "recipe.json", self.folder / TRAINING
        before = read_json(file)
        changed = [name for name in now if before and before.get(name) != now[name]]
        if recorded := [name for name in changed if name in _RECORDED]:
            raise OptionError(
                f"the answers in {self.folder} were recorded with another value of {recorded[0]}",
                hint="Give another --out, or the earlier value",
            )
        if changed and trained.is_file():
            raise OptionError(
                f"{self.folder} holds a training with another value of {changed[0]}",
                hint=f"Give another --out or the earlier value, or delete {trained}",
            )
        write_json(file, now)

    def write(self, trainer: HeadTrainer, judged: Judged | None) -> None:
        """Write the files of the head."""
        places = trainer.training
        card = head_card(
            self.recipe,
            parameters=sum(part.numel() for part in trainer.head.parameters()),
            tokens=sum(place.starts for place in places),
            kinds=Counter(place.kind for place in places),
            judged=judged,
        )
        checkpoint = open_checkpoint(self.source)
        verifier = Verifier(
            name_or_path=self.recipe.target,
            architectures=tuple(checkpoint.config.get("architectures") or ()),
            tokenizer=Tokenizer.load(self.source).fingerprint,
        )
        write_head(
            self.files,
            trainer.config,
            trainer.tensors(),
            verifier,
            bits=None if self.recipe.kind == HeadKind.EAGLE3 else self.recipe.training.bits,
            card=card,
            trained=None if judged is None else judged.to_dict(),
            rotary=checkpoint.config,
        )

    def write_followers(self, trainer: HeadTrainer) -> None:
        """Write which tokens followed which in the answers."""
        followers = Followers(_FOLLOWING, 1 << 24)
        for place in trainer.training:
            followers.learn(trainer.texts.ids(place)[place.prompt :].tolist(), 1)
        saved = followers.saved(_OCCURRENCES)
        tensors = {name: torch.from_numpy(array) for name, array in saved.items()}
        save_tensors(self.files / FOLLOWERS, tensors)

    def judge(self) -> Judged | None:
        """Decode prompts that training has not seen; None if there are none."""
        prompts = self.unseen()
        if not prompts:
            return None
        target = load_model(self.source)
        file = read_head(self.files)
        name = self.recipe.name
        pair = run_head(file.config, file.tensors, target, name=name, grouped=file.grouped)
        tokenizer = Tokenizer.load(self.source)
        ids = [tokenizer.chat(prompt.messages) for prompt in prompts]
        return judge(pair, ids, self.recipe.answers.temperatures)


def train_head(
    config: Path,
    *,
    data: Path | None = None,
    out: Path | None = None,
    report: Callable[[str], None] = print,
) -> Path:
    """Train the head that a TOML file describes; return the folder of its files.

    Recording and training continue where an interrupted run stopped.

    Args:
        config: the TOML file (`HeadRecipe`).
        data: folder of the data sets; None: the one in the file.
        out: folder of the run; None: the one in the file.
        report: called with lines about the progress.

    Raises:
        OptionError: faulty settings, or no data.
        TrainingStopped: after SIGTERM or SIGINT.
    """
    recipe = read_table(config, HeadRecipe)
    place, folder = data_folder(data or Path(recipe.data)), out or Path(recipe.out)
    source = family(recipe.target)["target"] if is_family(recipe.target) else recipe.target
    teacher = Teacher.of(open_checkpoint(local_folder(source)))
    states = recipe.numbers(teacher.config.num_layers)
    with run_in(folder, recipe.threads) as stop:
        run = HeadRun(
            recipe=recipe,
            source=local_folder(source),
            data=place,
            folder=folder,
            stop=stop,
            report=report,
        )
        run.check_same()
        run.record(states)
        hinted = recipe.training.hints and recipe.kind == HeadKind.HINTED
        steps = recipe.heads if recipe.kind == HeadKind.MEDUSA else _STEPS
        texts = RecordedTexts(run.texts, teacher.config.vocab_size, steps, hints=hinted)
        trainer = HeadTrainer(recipe, teacher, texts, folder, report, stop)
        trainer.run()
        run.write(trainer, None)
        run.write_followers(trainer)
        if (judged := run.judge()) is not None:
            run.write(trainer, judged)
            report(judged.summary)
    report(f"head: {run.files}")
    return run.files
