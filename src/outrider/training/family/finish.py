"""The last stage of a family: export the models, measure them, write the card."""

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM

from outrider.training.core.evaluate import heldout_losses, heldout_windows
from outrider.training.core.models import export_model, moved, parameter_counts
from outrider.training.core.prompts import prompt_text, write_prompts
from outrider.training.core.state import read_json, write_json
from outrider.training.core.workspace import TIERS, Workspace
from outrider.training.family.agreement import mean, measure
from outrider.training.family.card import Findings, Sample, write_card
from outrider.training.family.distill import load_students
from outrider.training.family.sample import continuations
from outrider.training.family.target import load_target

_SAMPLES = 10
_SAMPLE_TOKENS = 160


def export_family(work: Workspace) -> dict[str, Any]:
    """Write the `family/<tier>` folders; later measurements use these bfloat16 weights."""
    models = {"target": load_target(work), **load_students(work)}
    for tier in TIERS:
        export_model(models[tier], work.tokenizer(), work.folder / "family" / tier)
    write_prompts(
        work.config, work.data, work.tokenizer(), work.folder / "family" / "prompts.jsonl"
    )
    return {tier: parameter_counts(models[tier]) for tier in TIERS}


def measure_family(work: Workspace) -> dict[str, Any]:
    """Measure the exported models and write `family/MODEL_CARD.md`; return the main figures."""
    models = {tier: _exported(work, tier) for tier in TIERS}
    corpus = work.folder / "corpus"
    length = work.config.target.sequence_length + 1
    windows = heldout_windows(corpus, length, work.config.corpus.heldout_tokens)
    losses = {tier: heldout_losses(model, windows) for tier, model in models.items()}
    others = {tier: model for tier, model in models.items() if tier != "target"}
    agreement = measure(models["target"], others, corpus, length=length)
    findings = Findings(
        command=f"outrider train family configs/{work.config.name}.toml --data DIR",
        stages=read_json(work.folder / "state.json"),
        parameters={tier: parameter_counts(model) for tier, model in models.items()},
        losses=losses,
        agreement=agreement,
        samples=_samples(
            models["target"], work.tokenizer(), work.folder / "family" / "prompts.jsonl"
        ),
    )
    card = write_card(work.config, findings)
    (work.folder / "family" / "MODEL_CARD.md").write_text(card, encoding="utf-8")
    figures = {
        tier: {
            field: mean(getattr(report, field)).greedy
            for field in ("text", "own_greedy", "own_sampled")
        }
        for tier, report in agreement.items()
    }
    write_json(work.folder / "figures.json", {"losses": losses, "agreement": figures})
    return figures


def _exported(work: Workspace, tier: str) -> LlamaForCausalLM:
    folder = work.folder / "family" / tier
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32, trust_remote_code=False)
    return moved(model, work.device).eval()


def _samples(target: LlamaForCausalLM, tokenizer: Tokenizer, prompts: Path) -> list[Sample]:
    """Continue evenly spaced evaluation prompts, each up to its first end token."""
    lines = prompts.read_text(encoding="utf-8").splitlines()
    chosen = lines[:: max(1, len(lines) // _SAMPLES)][:_SAMPLES]
    ends = target.generation_config.eos_token_id if target.generation_config else []
    made: list[Sample] = []
    for number, line in enumerate(chosen):
        prompt = prompt_text(json.loads(line)["prompt"])
        ids = torch.tensor([tokenizer.encode(prompt).ids], device=target.lm_head.weight.device)
        size = ids.shape[1]
        row = continuations(
            target, ids, size + _SAMPLE_TOKENS, temperature=0.8, top_p=0.95, seed=number
        )
        tail = row[0, size:].tolist()
        stop = next((at for at, token in enumerate(tail) if token in ends), len(tail))
        text = tokenizer.decode(tail[:stop], skip_special_tokens=False)
        made.append(Sample(prompt=prompt, continuation=text))
    return made
