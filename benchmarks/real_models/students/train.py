"""Train the qualifier and the draft model of a real model, until the minutes are used up."""

import argparse
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from benchmarks.real_models.students.cut import Size, cut, fit_head, observe
from benchmarks.real_models.students.losses import Candidates, divergence
from benchmarks.real_models.students.windows import LENGTH, Windows, prepare
from torch import Tensor
from torch.optim import Optimizer
from transformers import LlamaForCausalLM

from outrider.training.core.config import Stage
from outrider.training.core.evaluate import autocast
from outrider.training.core.loop import StageRun, StopSignal, run_stage
from outrider.training.core.models import parameter_counts
from outrider.training.core.optim import make_optimizers
from outrider.training.core.state import load_checkpoint, save_tensors

SIZES: Mapping[str, Size] = {
    "qualifier": Size(layers=range(6), width=320, groups=3, ffn=768),
    "draft": Size(layers=range(2), width=128, groups=1, ffn=384),
}
_BATCH = 12
_STAGE = "students"
_FREQUENT, _SAMPLED = 8192, 1024
_CALIBRATION, _FITTED = 16, 64
"""Windows from which the students' directions and heads are found."""


class Students:
    """Both students, and the computation of their gradients."""

    def __init__(self, model: Path, windows: Windows) -> None:
        self._windows = windows
        self._teacher = LlamaForCausalLM.from_pretrained(model, dtype=torch.bfloat16)
        first = windows.held_out
        found = observe(self._teacher, windows.ids[first : first + _CALIBRATION])
        self.models = {name: cut(self._teacher, size, found) for name, size in SIZES.items()}
        for student in self.models.values():
            cast(Any, student.model).embed_tokens.weight.requires_grad_(False)
        vocabulary = self._teacher.config.vocab_size
        counts = torch.bincount(windows.ids[first:].flatten(), minlength=vocabulary)
        self._candidates = Candidates(counts, _FREQUENT, _SAMPLED)
        self._order: dict[int, list[int]] = {}

    def fit(self) -> None:
        """Fit the heads of new students."""
        first = self._windows.held_out
        for student in self.models.values():
            with autocast(torch.device("cpu")):
                fit_head(student, self._teacher, self._windows.ids[first : first + _FITTED])

    def step(self, row: int) -> dict[str, float]:
        """Add up the gradients of the batch that begins with row number `row`."""
        rows = [self._row(row + i) for i in range(_BATCH)]
        tokens, probs = self._windows.taught(self._teacher, rows)
        ids, add, places = self._candidates.draw(row)
        metrics: dict[str, float] = {}
        for name, student in self.models.items():
            hidden = self._hidden(student, rows)
            head = student.lm_head.weight
            loss, grad, grad_head, agree = divergence(
                hidden.detach(), head.detach()[ids], add, places[tokens], probs
            )
            hidden.backward(grad)
            head.grad = torch.zeros_like(head).index_copy_(0, ids, grad_head)
            metrics |= {f"{name}/loss": loss, f"{name}/agreement": agree}
        return metrics

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Return the share of held-out answer positions with the teacher's best token."""
        found: dict[str, float] = {}
        rows = list(range(self._windows.held_out))
        tokens, _ = self._windows.taught(self._teacher, rows)
        for name, student in self.models.items():
            states = torch.cat([self._hidden(student, rows[i : i + 8]) for i in rows[::8]])
            low = student.lm_head.weight.bfloat16()
            best = torch.cat([(part @ low.T).argmax(dim=-1) for part in states.split(512)])
            found[f"{name}/heldout"] = float((best == tokens[:, 0]).float().mean())
        return found

    def _row(self, number: int) -> int:
        """Return a row of the windows: in each pass, the model's own answers twice."""
        first, own = self._windows.held_out, self._windows.own
        rows = [*range(first, first + own), *range(first, len(self._windows.ids))]
        turn, place = divmod(number, len(rows))
        if turn not in self._order:
            generator = torch.Generator().manual_seed(turn)
            self._order[turn] = torch.randperm(len(rows), generator=generator).tolist()
        return rows[self._order[turn][place]]

    def _hidden(self, student: LlamaForCausalLM, rows: list[int]) -> Tensor:
        """States at counted positions [n, width] in bfloat16."""
        with autocast(torch.device("cpu")):
            out = student.model(input_ids=self._windows.ids[rows], use_cache=False)
        return out.last_hidden_state[self._windows.counted[rows]].to(torch.bfloat16)


def export(students: Mapping[str, LlamaForCausalLM], model: Path, out: Path) -> None:
    """Write bfloat16 folders without a tokenizer: that of the target is used."""
    for name, student in students.items():
        # `save_pretrained` refuses a width that is no multiple of the number of heads.
        tensors = {key: value.bfloat16() for key, value in student.state_dict().items()}
        save_tensors(out / name / "model.safetensors", tensors, {"format": "pt"})
        config = student.config.to_dict() | {"dtype": "bfloat16"}
        (out / name / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
        shutil.copy(model / "generation_config.json", out / name)
        print(name, "parameters, and without the embedding:", parameter_counts(student))


def train(students: Students, out: Path, minutes: float, rate: float) -> None:
    """Train until the minutes are used up; a checkpoint is written every few minutes."""
    if not (out / f"{_STAGE}.safetensors").exists():
        students.fit()
        print(students.evaluate(), flush=True)
    stage = Stage(
        tokens=10**9,
        sequence_length=LENGTH,
        batch=_BATCH,
        micro_batch=_BATCH,
        learning_rate=rate,
        final_learning_rate=rate / 30,
        warmup_tokens=20 * _BATCH * LENGTH,
        max_minutes=minutes,
    )
    optimizers: dict[str, Optimizer] = {}
    for name, student in students.models.items():
        optimizers |= make_optimizers(student, name)
    with StopSignal() as stop:
        run_stage(
            StageRun(
                name=_STAGE,
                folder=out,
                stage=stage,
                models=students.models,
                optimizers=optimizers,
                step=students.step,
                evaluate=students.evaluate,
                stop=stop,
                checkpoint_minutes=4,
                evaluate_minutes=4,
            )
        )


def main() -> None:
    """Parse the command line, train, and export."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", type=Path, help="folder of a Llama-shaped model")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/students"))
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--texts", type=int, default=150_000, help="tokens of the sets' answers")
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--export-only", action="store_true", help="write the last checkpoint")
    given = parser.parse_args()
    torch.set_num_threads(1)
    windows = Windows(prepare(str(given.model), given.data, given.out, given.texts))
    students = Students(given.model, windows)
    if given.export_only:
        load_checkpoint(given.out / f"{_STAGE}.safetensors", students.models, {})
    else:
        train(students, given.out, given.minutes, given.learning_rate)
    export(students.models, given.model, given.out)


if __name__ == "__main__":
    main()
