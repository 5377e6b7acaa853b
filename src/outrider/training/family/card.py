"""Writes the model card from measurements."""

from dataclasses import dataclass
from typing import Any

from outrider.training.core.config import FamilyConfig
from outrider.training.core.workspace import TIERS
from outrider.training.family.agreement import Agreement, Report, mean


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """A prompt and the target's unedited continuation."""

    prompt: str
    continuation: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Findings:
    """All figures of a card: stage results, sizes (with and without embeddings), losses,
    agreement.
    """

    command: str
    stages: dict[str, Any]
    parameters: dict[str, tuple[int, int]]
    losses: dict[str, dict[str, float]]
    agreement: dict[str, Report]
    samples: list[Sample]


def write_card(config: FamilyConfig, findings: Findings) -> str:
    """Write the card as Markdown."""
    return "\n".join(
        [
            *_head(config, findings),
            *_data(config),
            *_training(config, findings),
            *_losses(findings),
            *_agreement(config, findings),
            *_samples(findings),
            *_limits(),
        ]
    )


def _head(config: FamilyConfig, findings: Findings) -> list[str]:
    lines = [
        f"# The `{config.name}` family",
        "",
        "A target, a qualifier and a draft model that share one vocabulary, made for testing and "
        "demonstrating speculative decoding without a download. All three are Llama-shaped, "
        f"with {config.vocabulary.size} byte-level BPE tokens, tied embeddings, and contexts of "
        f"up to {config.max_position_embeddings} tokens. Weights are bfloat16.",
        "",
        "| model | parameters | without embeddings | layers | hidden size |",
        "|---|---|---|---|---|",
    ]
    for tier in TIERS:
        shape = getattr(config.models, tier)
        total, inner = findings.parameters[tier]
        lines.append(f"| {tier} | {total:,} | {inner:,} | {shape.layers} | {shape.hidden_size} |")
    return [*lines, "", "Recipe:", "", f"    {findings.command}", ""]


def _data(config: FamilyConfig) -> list[str]:
    total = sum(source.weight for source in config.corpus.sources)
    lines = [
        "## Data",
        "",
        "Public data sets only. Shares are of tokens as configured; a small set is repeated at "
        "most as often as stated, so its true share can be lower. The texts themselves are not "
        "part of this package; some of the sets are share-alike, which concerns their texts.",
        "",
        "| set | published at | file | format | share | most passes | licence |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {source.name} | {source.origin} | {source.file} | {source.format} "
        f"| {source.weight / total:.1%} | {source.passes:g} | {source.licence} |"
        for source in config.corpus.sources
    ]
    held = "; ".join(f"{s.name} ({s.file}, {s.licence})" for s in config.corpus.heldout)
    return [*lines, "", f"Held out, never trained on: {held}.", ""]


def _training(config: FamilyConfig, findings: Findings) -> list[str]:
    lines = [
        "## Training",
        "",
        "Muon for hidden matrices and AdamW for the rest, one linear schedule by the larger of "
        "token and time progress. The qualifier and the draft model were matched to the target "
        "together (forward KL at temperature 1), on training text and on samples of the target.",
        "",
        "| stage | steps | tokens seen | context | minutes |",
        "|---|---|---|---|---|",
    ]
    for name in ("target", "target_long", "distill", "distill_long"):
        result, stage = findings.stages[name], getattr(config, name)
        lines.append(
            f"| {name} | {result['step']:,} | {result['tokens']:,} | {stage.sequence_length} "
            f"| {result['seconds'] / 60:.0f} |"
        )
    sampled = findings.stages["samples"]["tokens"]
    return [*lines, "", f"Samples written by the target for distillation: {sampled:,} tokens.", ""]


def _losses(findings: Findings) -> list[str]:
    lines = [
        "## Held-out loss (nats a token)",
        "",
        "| domain | target | qualifier | draft |",
        "|---|---|---|---|",
    ]
    for name in findings.losses["target"]:
        label = name.removeprefix("heldout/") if "/" in name else "mean"
        cells = " | ".join(f"{findings.losses[tier][name]:.3f}" for tier in TIERS)
        lines.append(f"| {label} | {cells} |")
    return [*lines, ""]


def _agreement(config: FamilyConfig, findings: Findings) -> list[str]:
    lines = [
        "## Agreement with the target",
        "",
        "Greedy: share of positions whose most likely token is the target's, each model reading "
        "the same text. Overlap: the mean of sum(min(p, q)), the chance that a drafted token "
        "survives speculative sampling at temperature 1. Held-out text is cut into windows of "
        f"{config.target.sequence_length} tokens. {_at_length(config, findings)}",
    ]
    for field, title in (
        ("text", "On held-out text"),
        ("own_greedy", "On the target's own greedy continuations"),
        ("own_sampled", "On the target's own samples (temperature 1)"),
    ):
        lines += ["", f"{title}:", "", *_agreement_table(findings, field)]
    return [*lines, ""]


def _at_length(config: FamilyConfig, findings: Findings) -> str:
    """Format the greedy agreement at the end of the last stage, which has the longer context."""
    last = findings.stages["distill_long"]
    shares = ", ".join(f"{tier} {last[f'{tier}/agreement']:.3f}" for tier in findings.agreement)
    length = config.distill_long.sequence_length
    return f"Over windows of {length} tokens the mean greedy agreement is: {shares}."


def _agreement_table(findings: Findings, field: str) -> list[str]:
    tables: dict[str, dict[str, Agreement]] = {
        tier: getattr(report, field) for tier, report in findings.agreement.items()
    }
    heads = [f"{tier} greedy | {tier} overlap" for tier in tables]
    lines = [f"| domain | {' | '.join(heads)} |", "|---" * (1 + 2 * len(tables)) + "|"]
    domains = list(next(iter(tables.values())))
    rows = {name: [table[name] for table in tables.values()] for name in domains}
    rows["mean"] = [mean(table) for table in tables.values()]
    for name, items in rows.items():
        cells = " | ".join(f"{item.greedy:.3f} | {item.overlap:.3f}" for item in items)
        lines.append(f"| {name} | {cells} |")
    return lines


def _samples(findings: Findings) -> list[str]:
    lines = ["## Samples", "", "Target, temperature 0.8, top-p 0.95, unedited, not selected.", ""]
    for number, sample in enumerate(findings.samples, 1):
        lines += [f"{number}. Prompt:", "", *_quoted(sample.prompt), ""]
        lines += ["   Continuation:", "", *_quoted(sample.continuation), ""]
    return lines


def _quoted(text: str) -> list[str]:
    return [f"   > {line}".rstrip() for line in text.split("\n")]


def _limits() -> list[str]:
    return [
        "## Limitations",
        "",
        "- Very small models, trained on few tokens: sentences often read as English, but what "
        "they say rarely makes sense. Answers, facts, sums, code and copying are unreliable. Not "
        "for any use but testing and teaching.",
        "- English only. The books are of their time, and so are some of their attitudes.",
        "- No safety training of any kind.",
        "- Agreement between the tiers is a property of this family; larger models agree less.",
        "",
    ]
