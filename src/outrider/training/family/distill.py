"""Distills the qualifier and the draft model from the target, with one shared teacher forward."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import LlamaForCausalLM

from outrider.training.core.config import Stage
from outrider.training.core.corpus import Windows
from outrider.training.core.evaluate import (
    autocast,
    heldout_agreement,
    heldout_losses,
    heldout_windows,
)
from outrider.training.core.heads import divergences
from outrider.training.core.loop import StageRun, run_stage
from outrider.training.core.optim import make_optimizers
from outrider.training.core.state import load_checkpoint
from outrider.training.core.workspace import Workspace
from outrider.training.family.sample import sample_stream
from outrider.training.family.target import QUICK_TOKENS, load_target

STUDENTS = ("qualifier", "draft")


def distill(work: Workspace, name: str, stage: Stage, after: str = "") -> dict[str, Any]:
    """Run one stage of distillation; `after` names the stage whose parameters it starts from.

    The loss is the forward divergence KL(target || student) at temperature 1, on training text
    and on the target's own samples (`stage.sample_share` of each batch).
    """
    teacher = load_target(work)
    students = {tier: work.new_model(tier) for tier in STUDENTS}
    optimizers: dict[str, Optimizer] = {}
    for tier, student in students.items():
        inherit_embedding(student, teacher)
        optimizers |= make_optimizers(student, tier)
    if after:
        load_checkpoint(work.folder / f"{after}.safetensors", students, optimizers)
    heldout = heldout_windows(work.folder / "corpus", stage.sequence_length + 1, QUICK_TOKENS)

    def evaluate() -> dict[str, float]:
        found: dict[str, float] = {}
        for tier, student in students.items():
            agreement = heldout_agreement(teacher, student, heldout)
            found[f"{tier}/agreement"] = sum(agreement.values()) / len(agreement)
            found[f"{tier}/heldout"] = heldout_losses(student, heldout)["heldout"]
        return found

    return run_stage(
        StageRun(
            name=name,
            folder=work.folder,
            stage=stage,
            models=students,
            optimizers=optimizers,
            step=_Step(work, stage, teacher, students, name),
            evaluate=evaluate,
            stop=work.stop,
            checkpoint_minutes=work.config.checkpoint_minutes,
            evaluate_minutes=work.config.evaluate_minutes,
        )
    )


@torch.no_grad()
def inherit_embedding(student: LlamaForCausalLM, teacher: LlamaForCausalLM) -> None:
    """Initialize the student's embedding from the teacher's, projected on its main directions.

    The projection keeps the similarity of tokens, which a small model would otherwise need most of
    its training to learn. The rows are rescaled to the usual initial spread.
    """
    source = teacher.lm_head.weight.float()
    width = student.config.hidden_size
    if width > source.shape[1]:
        return
    centred = source - source.mean(dim=0)
    _, directions = torch.linalg.eigh(centred.T @ centred)
    projected = source @ directions[:, -width:]
    spread = student.config.initializer_range
    student.lm_head.weight.copy_(projected * (spread / projected.std()))


class _Step:
    """Computes the gradients of one distillation step for both students."""

    def __init__(
        self,
        work: Workspace,
        stage: Stage,
        teacher: LlamaForCausalLM,
        students: dict[str, LlamaForCausalLM],
        name: str,
    ) -> None:
        self._device = work.device
        self._stage = stage
        self._teacher = teacher
        self._students = students
        self._teacher_body = work.body(teacher)
        self._bodies = {tier: work.body(student) for tier, student in students.items()}
        length = stage.sequence_length + 1
        self._text = work.windows(length, stage.stream, seed=50 + len(name))
        stream = sample_stream(work.folder)
        enough = stage.sample_share > 0 and len(stream) >= length
        self._samples = Windows(stream, length, (0.0, 1.0), work.config.seed) if enough else None

    def __call__(self, row: int) -> dict[str, float]:
        stage = self._stage
        parts = stage.batch // stage.micro_batch
        metrics: dict[str, float] = {}
        for part in range(parts):
            rows = torch.from_numpy(self._rows(row // stage.micro_batch + part)).to(self._device)
            for key, value in self._part(rows[:, :-1], 1 / parts).items():
                metrics[key] = metrics.get(key, 0.0) + value / parts
        return metrics

    def _rows(self, index: int) -> np.ndarray:
        size = self._stage.micro_batch
        own = round(size * self._stage.sample_share) if self._samples is not None else 0
        text = self._text.rows(index * (size - own), size - own)
        if self._samples is None or own == 0:
            return text
        return np.concatenate((text, self._samples.rows(index * own, own)))

    def _part(self, ids: Tensor, scale: float) -> dict[str, float]:
        with torch.no_grad():
            taught = self._hidden(self._teacher_body, ids)
        hidden = [self._hidden(self._bodies[tier], ids) for tier in self._students]
        heads = [student.lm_head.weight for student in self._students.values()]
        losses, grads, agree = divergences(
            (taught, self._teacher.lm_head.weight), list(zip(hidden, heads, strict=True)), scale
        )
        for states, grad in zip(hidden, grads, strict=True):
            states.backward(grad)
        metrics: dict[str, float] = {}
        for tier, loss, share in zip(self._students, losses, agree, strict=True):
            metrics |= {f"{tier}/kl": loss, f"{tier}/train_agreement": share}
        return metrics

    def _hidden(self, body: Any, ids: Tensor) -> Tensor:
        with autocast(self._device):
            out = body(input_ids=ids, use_cache=False)
        return out.last_hidden_state.flatten(0, 1).to(torch.bfloat16)


def load_students(work: Workspace) -> dict[str, LlamaForCausalLM]:
    """Load the finished qualifier and draft model in float32."""
    students = {tier: work.new_model(tier) for tier in STUDENTS}
    models: dict[str, nn.Module] = dict(students)
    load_checkpoint(work.folder / "distill_long.safetensors", models, {})
    for student in students.values():
        student.eval()
    return students
