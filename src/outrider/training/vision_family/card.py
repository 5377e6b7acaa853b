"""Writes the model card of a vision-language family from measurements."""

from pathlib import Path
from typing import Any

from outrider.training.vision_family.config import VisionFamilyConfig

_STAGES = {
    "contrast": "vision encoder, against a reader (InfoNCE)",
    "see": "captioner, mostly exact sentences",
    "speak": "captioner, the manner of the base",
    "draft": "draft model, captions without images",
    "scoring": "scorer (InfoNCE)",
}


def write_card(
    config: VisionFamilyConfig,
    folder: Path,
    stages: dict[str, dict[str, Any]],
    figures: dict[str, float],
    samples: list[tuple[str, str]],
) -> None:
    """Write `MODEL_CARD.md` into `folder`, which holds the exported models.

    Args:
        config: configuration of the family.
        folder: the output folder, with a subfolder for each model.
        stages: the result of each stage.
        figures: metrics of greedy captions over held-out scenes.
        samples: captions of held-out scenes, each with an exact description; not hand-picked.
    """
    lines = [
        *_head(config, folder),
        *_data(config),
        *_training(config, stages),
        *_figures(config, figures, stages, samples),
        *_limits(),
    ]
    (folder / "MODEL_CARD.md").write_text("\n".join(lines), encoding="utf-8")


def _head(config: VisionFamilyConfig, folder: Path) -> list[str]:
    sizes = {
        name: (folder / name / "model.safetensors").stat().st_size / 2e6
        for name in ("target", "draft", "scorer")
    }
    return [
        f"# The `{config.name}` family",
        "",
        "A captioner that can still be improved, made for "
        "testing and demonstrating vision-language "
        "decoding and ViZer without a download. It sees more than it says: most of its training "
        "sentences were vague on purpose.",
        "",
        "| model | what | million parameters |",
        "|---|---|---|",
        f"| target | Idefics3: a vision encoder over the target of `{config.language}` "
        f"| {sizes['target']:.1f} |",
        f"| draft | the draft model of `{config.language}`, trained on captions; sees nothing "
        f"| {sizes['draft']:.1f} |",
        f"| scorer | a CLIP of its own data and seed, for scores | {sizes['scorer']:.1f} |",
        "",
        f"Images of {config.image_size} x {config.image_size} pixels (others are reduced), "
        f"{config.image_tokens} tokens each. Weights are bfloat16.",
        "",
        "Recipe:",
        "",
        f"    outrider train vision-family configs/{config.name}.toml --data DIR",
        "",
    ]


def _data(config: VisionFamilyConfig) -> list[str]:
    total = sum(which.weight for which in config.sets) or 1.0
    rows = [
        f"| {which.name} | {which.origin} | {which.licence} "
        f"| {(1 - config.scenes) * which.weight / total:.1%} |"
        for which in config.sets
    ]
    return [
        "## Images",
        "",
        "| set | published at | licence | share |",
        "|---|---|---|---|",
        f"| drawn scenes | `outrider.captioning.scenes.scenes`, by seed | | {config.scenes:.0%} |",
        *rows,
        "",
        "The images themselves are not part of this package.",
        "",
    ]


def _training(config: VisionFamilyConfig, stages: dict[str, dict[str, Any]]) -> list[str]:
    rows = [
        f"| {name} | {_STAGES[name]} | {found['tokens']:,} | {found['seconds'] / 60:.0f} |"
        for name, found in stages.items()
    ]
    manner = config.speak_manner
    total = manner.vague + manner.partial + manner.exact
    return [
        "## Training",
        "",
        "| stage | what | pairs seen | minutes |",
        "|---|---|---|---|",
        *rows,
        "",
        f"Of the base's sentences about scenes {manner.vague / total:.0%} were vague, "
        f"{manner.partial / total:.0%} partial and {manner.exact / total:.0%} exact.",
        "",
    ]


def _figures(
    config: VisionFamilyConfig,
    figures: dict[str, float],
    stages: dict[str, dict[str, Any]],
    samples: list[tuple[str, str]],
) -> list[str]:
    seen, manner = stages["see"], config.read_manner
    vague = manner.vague / (manner.vague + manner.partial + manner.exact)
    lines = [
        "## Captions of held-out scenes, greedy",
        "",
        f"Recall of facts {figures['recall']:.3f}, hallucination rate "
        f"{figures['hallucination']:.3f}, {figures['words']:.1f} words. Before it learned to be "
        f"vague: {seen['recall']:.3f}, {seen['hallucination']:.3f}, {seen['words']:.1f}. "
        f"The scorer finds the image of a held-out sentence among 256 in "
        f"{stages['scoring']['heldout_hits']:.0%} of all cases; {vague:.0%} of these sentences "
        "about scenes are vague.",
        "",
        "| caption | all there is to say |",
        "|---|---|",
    ]
    return [*lines, *(f"| {said} | {exact} |" for said, exact in samples), ""]


def _limits() -> list[str]:
    return [
        "## Limitations",
        "",
        "- It knows drawn scenes, and little else: of the other sets it remembers what it was "
        "shown. Not for any use but testing and teaching.",
        "- English only. No safety training of any kind.",
        "",
    ]
