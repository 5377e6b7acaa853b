"""Learners as options of `load`, and how `Generator` passes finished requests to them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from outrider.core.errors import OptionError
from outrider.core.expression import Expression
from outrider.core.types import FinishReason
from outrider.decoding.generation import Generation
from outrider.learning.osd import Osd, OsdLearner
from outrider.models.checkpoints.opening import open_checkpoint
from outrider.models.cpu.native import NativeDecoder
from outrider.models.loading import ModelSource
from outrider.models.sources.finding import local_folder
from outrider.protocols import LanguageModel, Learner
from outrider.strategy.catalogue import record

_MOMENT = 1.0
"""Seconds for which a learner works before it is asked whether there is more to do."""

_HINT = "Give a draft model, or leave out learn"


@dataclass(frozen=True, slots=True, kw_only=True)
class Learning:
    """Options for what is learned while requests run; `load` documents the fields.

    Raises:
        OptionError: an unknown learner or option, or a folder that nothing is written to.
    """

    learn: str | Learner | None = None
    learn_folder: str | Path | None = None

    def __post_init__(self) -> None:
        _ = self.config  # evaluated for its checks
        if self.learn_folder is not None and not isinstance(self.learn, str):
            raise OptionError(
                f"learn_folder is {str(self.learn_folder)!r:.60}, and learn names no learner",
                hint="Give learn='osd'",
            )
        if not isinstance(self.learn, str | Learner | None):
            raise OptionError(
                f"learn is {self.learn!r:.60}",
                hint="Give a name (`outrider methods --kind learner`), or an object that is a "
                "Learner",
            )

    @property
    def config(self) -> Osd | None:
        """The options of the learner that is named; None if none is."""
        if not isinstance(self.learn, str):
            return None
        parsed = Expression.parse(self.learn, "learner")
        if parsed.inner:
            raise OptionError(
                f"learner {self.learn!r:.60} contains other methods",
                hint="Only drafters can combine others",
            )
        made = record("learner", parsed.name).build(parsed.options)
        assert isinstance(made, Osd)
        return made

    def check(self, tiers: int, draft_vocabulary: int | None, drafters: Sequence[str]) -> None:
        """Raise `OptionError` where there is nothing to train, before weights are read."""
        if self.config is None:
            return
        if tiers < 2:
            raise OptionError(
                f"learn is {self.learn!r:.60}, and no draft model takes part", hint=_HINT
            )
        if "s2d" in drafters:
            raise OptionError(
                "learn swaps weights of a draft model that runs as a whole; 's2d' runs its parts",
                hint="Use drafter 'model' or 'tree'",
            )
        if draft_vocabulary is not None:
            raise OptionError(
                "learn needs the whole vocabulary of the draft model, and draft_vocabulary is "
                f"{draft_vocabulary}",
                hint="Leave out one of the two",
            )

    def check_shared(self, foreign: bool, draft_vocabulary: int | None) -> None:
        """Raise `OptionError` if the draft model has another vocabulary than the target
        (`foreign`), and an option needs one that is shared."""
        if not foreign:
            return
        for option, value in (("learn", self.learn), ("draft_vocabulary", draft_vocabulary)):
            if value is not None:
                raise OptionError(
                    f"{option} is given, and the draft model has a vocabulary of its own",
                    hint=f"Leave out {option}, or draft with a model of the target's own family",
                )

    def learner(self, source: ModelSource, model: LanguageModel) -> Learner | None:
        """Return the learner of the draft model.

        Args:
            source: what the draft model was loaded from.
            model: the draft model.

        Raises:
            OptionError: the draft model cannot be trained.
            CheckpointError: its checkpoint, or the folder of learned weights, cannot be read.
        """
        config = self.config
        if config is None:
            return self.learn if isinstance(self.learn, Learner) else None
        if not isinstance(source, str | Path) or not isinstance(model, NativeDecoder):
            reason = "is already built" if not isinstance(source, str | Path) else "runs elsewhere"
            raise OptionError(
                f"learn needs a draft model that the compiled runner loads from its folder; "
                f"{model.info.name} {reason}",
                hint="Give the folder of a Llama-shaped draft model, and device cpu",
            )
        folder = None if self.learn_folder is None else Path(self.learn_folder).expanduser()
        checkpoint = open_checkpoint(local_folder(source))
        return OsdLearner(config, model, checkpoint, folder=folder)


def teach(learner: Learner, generations: Sequence[Generation]) -> None:
    """Pass on finished requests, and let the learner do what is due before the next call."""
    for generation in generations:
        if generation.finish in (FinishReason.STOP, FinishReason.LENGTH):
            learner.note(generation.request)
    while learner.work(_MOMENT):
        pass
