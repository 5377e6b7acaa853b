"""Trains the target: next-token prediction, first with a short context, then with a long one."""

from pathlib import Path
from typing import Any

import torch
from transformers import LlamaForCausalLM

from outrider.training.core.config import Stage
from outrider.training.core.evaluate import autocast, heldout_losses, heldout_windows
from outrider.training.core.heads import cross_entropy
from outrider.training.core.loop import StageRun, run_stage
from outrider.training.core.models import export_model
from outrider.training.core.optim import make_optimizers
from outrider.training.core.state import load_checkpoint
from outrider.training.core.workspace import TIERS, Workspace

QUICK_TOKENS = 8192


def train_target(work: Workspace, name: str, stage: Stage, after: str = "") -> dict[str, Any]:
    """Run one stage of the target; `after` names the stage whose parameters it starts from."""
    model = work.new_model("target")
    optimizers = make_optimizers(model, "target")
    if after:
        load_checkpoint(work.folder / f"{after}.safetensors", {"target": model}, optimizers)
    body = work.body(model)
    windows = work.windows(stage.sequence_length + 1, stage.stream, seed=len(name))
    heldout = heldout_windows(work.folder / "corpus", stage.sequence_length + 1, QUICK_TOKENS)
    parts = stage.batch // stage.micro_batch

    def step(row: int) -> dict[str, float]:
        total = 0.0
        for part in range(parts):
            first = row + part * stage.micro_batch
            rows = torch.from_numpy(windows.rows(first, stage.micro_batch)).to(work.device)
            with autocast(work.device):
                out: Any = body(input_ids=rows[:, :-1], use_cache=False)
            hidden = out.last_hidden_state.flatten(0, 1).to(torch.bfloat16)
            labels = rows[:, 1:].reshape(-1)
            loss, grad = cross_entropy(hidden, model.lm_head.weight, labels, 1 / parts)
            hidden.backward(grad)
            total += loss / parts
        return {"loss": total}

    config = work.config
    return run_stage(
        StageRun(
            name=name,
            folder=work.folder,
            stage=stage,
            models={"target": model},
            optimizers=optimizers,
            step=step,
            evaluate=lambda: heldout_losses(model, heldout),
            stop=work.stop,
            checkpoint_minutes=config.checkpoint_minutes,
            evaluate_minutes=config.evaluate_minutes,
            at_minutes=config.provisional_minutes,
            at_minutes_do=lambda: export_provisional(work, model),
        )
    )


def load_target(work: Workspace) -> LlamaForCausalLM:
    """Load the finished target in float32."""
    model = work.new_model("target")
    load_checkpoint(work.folder / "target_long.safetensors", {"target": model}, {})
    return model.eval()


def export_provisional(work: Workspace, target: LlamaForCausalLM) -> None:
    """Write an unfinished family (untrained small tiers) that can already be loaded."""
    folder: Path = work.folder / "provisional"
    for tier in TIERS:
        model = target if tier == "target" else work.new_model(tier)
        export_model(model, work.tokenizer(), folder / tier)
