"""Trains a head on recorded texts: its start, the loop, and its acceptance on texts held out."""

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from outrider.core.errors import OptionError
from outrider.core.types import IntArray
from outrider.models.heads.chimera.config import ChimeraConfig
from outrider.models.heads.chimera.module import ChimeraModule
from outrider.models.heads.clover.config import HEAD_NORM, CloverConfig
from outrider.models.heads.clover.module import CloverModule
from outrider.models.heads.config import HeadConfig, HeadKind, HeadShape
from outrider.models.heads.medusa.config import MedusaConfig
from outrider.models.heads.medusa.module import MedusaModule
from outrider.models.heads.module import HeadModule, HeadNetwork
from outrider.models.llama.rope import RotaryTable
from outrider.models.quantization.int4 import quantize_int4
from outrider.training.core.loop import Clock, StopSignal, TrainingStopped
from outrider.training.core.state import load_checkpoint, save_checkpoint
from outrider.training.heads.config import HeadRecipe, HeadTraining
from outrider.training.heads.data import RecordedTexts, TextPlace, passes
from outrider.training.heads.kinds.chimera import (
    chimera_loss,
    fit_chimera,
    fresh_chimera,
    further_chimera,
    soften_chimera,
)
from outrider.training.heads.kinds.clover import fit_clover, fresh_clover, further_clover
from outrider.training.heads.kinds.medusa import (
    fit_mixes,
    fresh_medusa,
    further_medusa,
    medusa_loss,
    rank_accuracies,
    soften_mixes,
)
from outrider.training.heads.loss import acceptance, chain_loss, with_noise
from outrider.training.heads.rounding import Rounding
from outrider.training.heads.start import (
    FACTORS,
    Teacher,
    fit_ridge,
    fit_states,
    fresh_head,
    trained_head,
)

TRAINING = "training.safetensors"
"""The checkpoint of a training."""
_WARM_UP = 40
_LOWEST = 0.04
"""The last learning rate, relative to the largest one."""
_DECAY = 0.01
_BETAS = (0.9, 0.95)
_RIDGE_TOKENS = 100_000
_SAVED_SECONDS = 120.0
_SOFTENED = 12
"""Texts on which the first scale of the logits is chosen."""
_ENTRIES = (
    *("fc/weight", "fc/bias", "recur/weight", "token/weight", "hint/weight"),
    *("encoder/out/weight", "state/weight", "output/weight"),
)

Report = Callable[[str], None]


@dataclass(slots=True)
class HeadTrainer:
    """Trains one head on recorded texts.

    Attributes:
        recipe: the options.
        teacher: parts of the target.
        texts: the recorded texts.
        folder: holds the checkpoint and the log.
        report: called with lines about the progress.
        stop: whether to stop after the next batch.

    Raises:
        OptionError: there are no texts to train on.
    """

    recipe: HeadRecipe
    teacher: Teacher
    texts: RecordedTexts
    folder: Path
    report: Report
    stop: StopSignal | None = None
    config: HeadConfig | MedusaConfig | CloverConfig = field(init=False)
    head: HeadModule | MedusaModule | CloverModule = field(init=False)
    ids: IntArray = field(init=False)
    held_out: Sequence[TextPlace] = field(init=False)
    training: Sequence[TextPlace] = field(init=False)
    _frequent: IntArray = field(init=False)
    _rows: Tensor = field(init=False)
    _integers: dict[str, Tensor] = field(init=False)
    _rotary: RotaryTable = field(init=False)
    _rounding: Rounding | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        recipe, options = self.recipe, self.recipe.training
        torch.manual_seed(recipe.seed)
        places = self.texts.places
        self.held_out, left = places[: options.held_out], places[options.held_out :]
        if not left:
            raise OptionError(
                f"{len(places)} texts are recorded, and {options.held_out} of them are held out",
                hint="Record more answers, or lower training.held_out",
            )
        self.training = left[: max(1, round(len(left) * options.share))]
        self._rows = self.teacher.lm_head
        tensors = self._build()
        self._integers = {n: t for n, t in tensors.items() if not t.is_floating_point()}
        self._frequent = self.texts.frequent(recipe.train_vocab)
        cpu = torch.device("cpu")
        own = self.config.layer if isinstance(self.config, HeadConfig) else self.teacher.config
        self._rotary = RotaryTable(own.rope, torch.float32, cpu)

    def _build(self) -> dict[str, Tensor]:
        """Make the head before training; return its tensors."""
        recipe, teacher = self.recipe, self.teacher
        config, tensors = self._first()
        self.ids = tensors["ids"].numpy().astype(np.int64)
        rows, embed = self._rows[torch.from_numpy(self.ids)], teacher.embed
        if isinstance(config, MedusaConfig):
            self.config, self.head = config, MedusaModule(config, tensors, rows)
            return tensors
        if isinstance(config, CloverConfig):
            self.config = config
            self.head = CloverModule(config, tensors, lambda ids: F.embedding(ids, embed), rows)
            return tensors
        assert isinstance(config, HeadConfig)  # all other kinds have one layer
        self.config = config
        kind = ChimeraModule if isinstance(config, ChimeraConfig) else HeadModule
        self.head = kind(config, tensors, lambda ids: F.embedding(ids, embed), rows)
        if recipe.training.bits == 4:
            self._rows = quantize_int4(self._rows).dequantize()
            self._rounding = Rounding(self.head)
        return tensors

    def _first(self) -> tuple[HeadShape, dict[str, Tensor]]:
        """Return the configuration and the tensors with which training begins."""
        recipe, options, teacher = self.recipe, self.recipe.training, self.teacher
        kind, states = HeadKind(recipe.kind), recipe.numbers(teacher.config.num_layers)
        if kind is HeadKind.EAGLE3:
            states = states[:-1]  # the final state is a label; heads of this format do not read it
        elif kind is not HeadKind.HINTED:
            states = states[-1:]
        if options.start:
            config, tensors = trained_head(Path(options.start), kind, states, teacher)
            self.texts.hint_with(tensors.get("successors"))
            further_clover(config, recipe)
            return further_chimera(*further_medusa(config, tensors, recipe.heads), recipe)
        ids = self.texts.frequent(recipe.draft_vocab)
        if kind is HeadKind.MEDUSA:
            return fresh_medusa(teacher, states[-1], ids, recipe.heads)
        if kind is HeadKind.CLOVER:
            return fresh_clover(teacher, states[-1], ids, recipe)
        if kind is HeadKind.CHIMERA:
            return fresh_chimera(teacher, states[-1], ids, recipe)
        return fresh_head(
            teacher,
            kind,
            states,
            ids,
            self.texts.table,
            random=options.random,
            sampling=recipe.sampling and kind is HeadKind.FSPAD,
            alignment=recipe.alignment and kind is HeadKind.FSPAD,
        )

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors of the head, as files hold them."""
        found = self.head.tensors() | self._integers
        if self.config.kind is HeadKind.EAGLE3:  # other engines need its rows
            found["lm_head.weight"] = self.teacher.lm_head[torch.from_numpy(self.ids)]
        if isinstance(self.config, MedusaConfig | ChimeraConfig):
            ids = torch.from_numpy(self.ids)
            self.head.lm_head = self._rows[ids]
            found["accuracies"] = rank_accuracies(
                self.head, self._rotary, self.texts, self.held_out, ids, self.config.heads
            )
        return found

    def run(self) -> None:
        """Train to the end; an interrupted run continues from its checkpoint.

        Raises:
            TrainingStopped: `stop` asked for it.
        """
        file = self.folder / TRAINING
        optimizer = _optimizer(self.head, self.recipe.training)
        counters: dict[str, float] = {"batch": 0, "seconds": 0.0}
        if file.is_file():
            counters = load_checkpoint(file, self._modules(), {"adam": optimizer})
            self.report(f"training continues after {counters['batch']:.0f} batches")
        else:
            if not self.recipe.training.start:
                self._start()
        done, clock = int(counters["batch"]), Clock(counters["seconds"])
        saved = measured = time.monotonic()
        every = self.recipe.training.evaluate_minutes * 60
        for number, (batch, steps, share) in enumerate(self._batches(clock)):
            if number < done:
                continue
            loss = self._step(optimizer, batch, steps, number, share)
            now = time.monotonic()
            if now - measured > every or number == done:
                measured = now
                self._measure(number, share, loss)
            stops = self.stop is not None and self.stop.asked
            if stops or now - saved > _SAVED_SECONDS:
                saved = now
                state = {"batch": number + 1, "seconds": clock.seconds}
                save_checkpoint(file, self._modules(), {"adam": optimizer}, state)
            if stops:
                raise TrainingStopped(
                    f"the head is saved after {number + 1} batches", hint="Run again to resume"
                )
        state = {"batch": 1 << 40, "seconds": clock.seconds}
        save_checkpoint(file, self._modules(), {"adam": optimizer}, state)
        self._measure(None, 1.0, None)

    def _modules(self) -> dict[str, nn.Module]:
        """Return what a checkpoint holds beside the optimizer."""
        found: dict[str, nn.Module] = {"head": self.head}
        return found if self._rounding is None else found | {"rounding": self._rounding}

    def _start(self) -> None:
        if not self.recipe.training.ridge or self.config.kind is HeadKind.EAGLE3:
            return
        count, tokens = self._fitted()
        places, fitted = self.training[:count], f"start: matrices fitted on {tokens:,} tokens"
        if isinstance(self.head, MedusaModule | ChimeraModule):
            factors = self._fit_heads(self.head, places)
            self.report(f"{fitted}, logits times {' '.join(f'{one:g}' for one in factors)}")
        elif isinstance(self.head, CloverModule):
            fit_clover(self.head, self.texts, places, self.recipe.training.steps)
            self.report(f"{fitted}, logits times {self._soften(self.training[:_SOFTENED]):g}")
        elif self.config.predicts_states:
            fit_states(self.head, self.texts, places)
            self.report(fitted)
        else:
            fit_ridge(self.head, self.texts, places)
            self.report(f"{fitted}, logits times {self._soften(self.training[:_SOFTENED]):g}")

    def _fit_heads(
        self, head: MedusaModule | ChimeraModule, places: Sequence[TextPlace]
    ) -> list[float]:
        """Fit several heads; then do for each of them what `_soften` does for others."""
        softened = self.training[:_SOFTENED]
        ids = self._vocabulary(softened)
        head.lm_head, batch = self._rows[ids], self.texts.batch(softened)
        if isinstance(head, MedusaModule):
            fit_mixes(head, self.texts, places)
            return soften_mixes(head, batch, ids)
        fit_chimera(head, self.texts, places)
        return soften_chimera(head, self._rotary, batch, ids)

    def _fitted(self) -> tuple[int, int]:
        """Return the number of texts on which matrices are fitted, and that of their tokens."""
        count, tokens = 0, 0
        while count < len(self.training) and tokens < _RIDGE_TOKENS:
            tokens += self.training[count].starts
            count += 1
        return count, tokens

    @torch.no_grad()
    def _soften(self, places: Sequence[TextPlace]) -> float:
        """Scale the logits of a fitted head so that its loss is lowest; return the factor.

        The fitted logits are too large. Training would first make them smaller by errors.
        """
        clover = isinstance(self.head, CloverModule)
        norm = self.head.part(HEAD_NORM if clover else "norm.weight")
        ids = self._vocabulary(places)
        self.head.lm_head = self._rows[ids]
        batch, fitted = self.texts.batch(places), norm.clone()
        losses: dict[float, float] = {}
        for factor in FACTORS:
            norm.copy_(fitted * factor)
            losses[factor] = chain_loss(self.head, self._rotary, batch, self.teacher, ids, 1).item()
        best = min(losses, key=lambda factor: losses[factor])
        norm.copy_(fitted * best)
        if not clover:
            self.head.part("recur.weight").div_(best)
        return best

    def _batches(self, clock: Clock) -> Iterator[tuple[list[TextPlace], int, float]]:
        """Yield batches, the number of steps, and the share of the training that is done."""
        options, seed = self.recipe.training, self.recipe.seed
        plan = [
            (batch, steps)
            for count, steps in ((options.single, 1), (options.unrolled, options.steps))
            for batch in passes(self.training, options.texts, count, seed + 1000 * steps)
        ]
        weights = [len(batch) * (1 + steps) for batch, steps in plan]
        total, spent = sum(weights), 0
        for (batch, steps), weight in zip(plan, weights, strict=True):
            share = spent / total
            if options.max_minutes is not None:
                share = max(share, clock.seconds / (60 * options.max_minutes))
            if share >= 1:
                return
            yield batch, steps, share
            spent += weight

    def _step(
        self,
        optimizer: torch.optim.Optimizer,
        places: Sequence[TextPlace],
        steps: int,
        number: int,
        share: float,
    ) -> float:
        cosine = 0.5 * (1 + math.cos(math.pi * share))
        rate = self.recipe.training.learning_rate * min(1.0, (number + 1) / _WARM_UP)
        rate *= _LOWEST + (1 - _LOWEST) * cosine
        for group in optimizer.param_groups:
            group["lr"] = rate * group["scale"]
        ids = self._vocabulary(places)
        self.head.lm_head = self._rows[ids]
        if self._rounding is not None:
            self._rounding.use(self.head, number)
        loss = self._loss(places, ids, steps, number)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.head.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    def _loss(self, places: Sequence[TextPlace], ids: Tensor, steps: int, number: int) -> Tensor:
        """Return the loss of a batch."""
        batch = read = self.texts.batch(places)
        if isinstance(self.head, CloverModule):  # later heads have weights of their own
            steps = self.recipe.training.steps
        if isinstance(self.head, MedusaModule):
            return medusa_loss(self.head, batch, ids)
        if isinstance(self.head, ChimeraModule):
            soft = self.recipe.training.soft
            return chimera_loss(self.head, self._rotary, batch, self.teacher, ids, soft)
        if self.config.predicts_states and self.recipe.training.noise:
            seed = (self.recipe.seed << 32) + number  # a resumed run draws the same noise
            read = with_noise(batch, self.recipe.training.noise, seed)
        return chain_loss(self.head, self._rotary, batch, self.teacher, ids, steps, read)

    def _vocabulary(self, places: Sequence[TextPlace]) -> Tensor:
        """Return the most frequent tokens and those of the texts of a batch."""
        return torch.from_numpy(np.union1d(self._frequent, self.texts.batch_ids(places)))

    def _measure(self, number: int | None, share: float, loss: float | None) -> None:
        """Log the acceptance on the texts that are held out; after the end without a batch."""
        ids = torch.from_numpy(self.ids)
        if self._rounding is not None:
            self._rounding.finish(self.head)
        rates, tokens = acceptance(
            self.head, self._rotary, self.texts, self.held_out, self._rows, ids
        )
        record = {
            "batch": number,
            "share": round(share, 4),
            "loss": None if loss is None else round(loss, 4),
            "acceptance": [round(rate, 4) for rate in rates],
            "tokens_a_round": [round(count, 4) for count in tokens],
        }
        with (self.folder / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps(record) + "\n")
        last = "" if loss is None else f"loss {loss:.3f}, "
        shown = " ".join(f"{count:.2f}" for count in tokens)
        self.report(
            f"training: {share:.0%}, {last}right {rates[0]:.1%} of first tokens, "
            f"tokens a round for chains of 1 to {len(tokens)}: {shown}"
        )


def _optimizer(head: HeadNetwork[HeadShape], options: HeadTraining) -> torch.optim.Optimizer:
    entries = [part for name, part in head.parts.items() if name.endswith(_ENTRIES)]
    others = [part for name, part in head.parts.items() if not name.endswith(_ENTRIES)]
    groups = [
        {"params": [p for p in others if p.dim() > 1], "weight_decay": _DECAY, "scale": 1.0},
        {"params": [p for p in others if p.dim() < 2], "weight_decay": 0.0, "scale": 1.0},
        {"params": entries, "weight_decay": _DECAY, "scale": options.entry_rate},
    ]
    return torch.optim.AdamW(groups, lr=options.learning_rate, betas=_BETAS, fused=True)
