"""What latents in the cache are worth: the loss of the next tokens, with equal training.

    python -m benchmarks.kv_cache.augmentation configs/coprocessor/tiny.toml --data DIR \\
        --out runs/augmentation --steps 120

Variants, each trained on the same texts and places for the same number of steps:

- `base`: the frozen target, without latents; nothing is trained.
- `random-N`: soft tokens and adapter as training begins with them.
- `coprocessor-N`: N latents, written by the trained coprocessor.
- `prompt-N`: N trained input embeddings in the place of the latents, the same for every text
  (prompt tuning); there is no coprocessor.
- `lora`: no latents; an adapter of the same rank is added to the target itself.

All are measured on the same places of held-out texts: the loss of each of the next tokens, by its
distance from the place. Differences to `base`, and of the
coprocessor to prompt tuning, are paired; whole texts are drawn for the intervals.
A training continues where it was stopped; a variant that is not trained to the end is left out.
Losses are kept beside the checkpoints, by the tokens of the training.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from benchmarks.long_inputs.intervals import bootstrap
from benchmarks.search.intervals import shown
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor

from outrider.models.llama.decoder import Decoder
from outrider.models.llama.layers import logits_of
from outrider.training.coprocessor.augmenter import Augmenter, ReadText
from outrider.training.coprocessor.config import CoprocessorRecipe
from outrider.training.coprocessor.fit import (
    fit,
    held_out_losses,
    held_out_traces,
    without_latents,
)
from outrider.training.coprocessor.traces import Traces
from outrider.training.coprocessor.train import prepared
from outrider.training.core.config import read_table
from outrider.training.core.loop import run_in
from outrider.training.core.pairs import folder_of
from outrider.training.core.state import load_checkpoint, save_tensors

COUNTS = (4, 16)
TRAINED = (*(f"{form}-{n}" for form in ("coprocessor", "prompt") for n in COUNTS), "lora")
UNTRAINED = ("base", *(f"random-{n}" for n in COUNTS))
DISTANCES = (1, 2, 4, 8, 16)

Losses = dict[str, Float[Tensor, "traces ahead"]]
"""By domain."""


class PromptTuned(Augmenter):
    """Trained input embeddings in the place of latents, whatever the text says."""

    def latents(
        self, texts: Sequence[Traces], read: Sequence[ReadText]
    ) -> Float[Tensor, "traces latents hidden"]:
        """Return the soft tokens, once for each trace."""
        return self.soft.expand(sum(len(text.points) for text in texts), -1, -1)


class Adapted(Augmenter):
    """The target with an adapter, and without latents."""

    def losses(self, texts: Sequence[Traces]) -> Float[Tensor, "traces ahead"]:
        """Return the losses of the same tokens, each text read once by the adapted layers."""
        config = self.target.config
        nothing = torch.empty(config.num_layers, config.num_kv_heads, 0, config.head_dim)
        whole = [Traces(t.ids, np.zeros(1, np.int64), 0, len(t.ids) - 1) for t in texts]
        rows = self.target.embed(np.concatenate([text.tokens[0] for text in whole]))
        read, size = [ReadText(nothing, nothing)] * len(texts), whole[0].ahead
        states = self._through(self._coprocessor, rows, whole, read, size)
        logits = logits_of(states, self.target.weights, config)
        labels = torch.from_numpy(np.concatenate([text.labels[0] for text in whole]))
        all_losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
        places = [
            number * size + text.points[:, None] + np.arange(text.ahead)
            for number, text in enumerate(texts)
        ]
        return all_losses[torch.from_numpy(np.concatenate(places))]


def form_of(variant: str) -> tuple[type[Augmenter], int]:
    """The class of a variant, and its number of latents."""
    name, _, count = variant.partition("-")
    kinds = {"prompt": PromptTuned, "lora": Adapted}
    return kinds.get(name, Augmenter), int(count or 0)


def recipe_of(given: CoprocessorRecipe, variant: str, steps: int) -> CoprocessorRecipe:
    """The recipe of a variant; all have the same texts, places and steps."""
    stage = replace(given.stage, tokens=steps * given.stage.batch * given.stage.sequence_length)
    return replace(given, latents=max(form_of(variant)[1], 1), stage=stage)


def made(variant: str, recipe: CoprocessorRecipe, target: Decoder) -> Augmenter:
    """A variant before training."""
    kind, count = form_of(variant)
    return kind(target, count, recipe.rank, recipe.lora_alpha, recipe.seed)


def train(
    variant: str, recipe: CoprocessorRecipe, target: Decoder, corpus: Path, folder: Path
) -> None:
    """Train a variant in a folder of its own, or go on."""
    recipe = replace(recipe, held_out=2)  # the measurement comes later
    held_out = held_out_traces(corpus, recipe)
    if variant == "lora":
        held_out = {name: without_latents(texts) for name, texts in held_out.items()}
    stream = np.load(corpus / "train.npy", mmap_mode="r")
    with run_in(folder, recipe.threads) as stop:
        fit(made(variant, recipe, target), stream, held_out, recipe, folder, stop)


def measured(
    variant: str, recipe: CoprocessorRecipe, target: Decoder, corpus: Path, folder: Path
) -> Losses | None:
    """The losses of a variant, which are kept; None if it is not trained to the end."""
    kept = folder / f"losses-{recipe.stage.tokens}-{recipe.held_out}.safetensors"
    if kept.is_file():
        return load_file(kept)
    augmenter = made(variant, recipe, target)
    if variant in TRAINED:
        file = folder / "coprocessor.safetensors"
        if not file.is_file():
            return None
        counters = load_checkpoint(file, {"coprocessor": augmenter}, {})
        if counters["tokens"] < recipe.stage.tokens:
            return None
    texts = held_out_traces(corpus, recipe)
    if not form_of(variant)[1]:
        texts = {name: without_latents(own) for name, own in texts.items()}
    found = {name: held_out_losses(augmenter, own) for name, own in texts.items()}
    save_tensors(kept, found)
    return found


def trained_numbers(variant: str, recipe: CoprocessorRecipe, target: Decoder) -> int:
    """How many numbers a variant trains."""
    if variant not in TRAINED:
        return 0
    augmenter = made(variant, recipe, target)
    if variant.startswith("prompt"):
        return augmenter.soft.numel()
    return sum(one.numel() for one in augmenter.parameters()) - (variant == "lora")


def compared(losses: Losses, base: Losses, points: int) -> dict[str, str]:
    """The paired differences to the base: of all tokens, by distance, and by domain."""
    gaps = {name: (losses[name] - base[name]).double() for name in base}
    texts = list(
        chain.from_iterable(
            [f"{name}/{i // points}" for i in range(len(own))] for name, own in gaps.items()
        )
    )
    whole = torch.cat(list(gaps.values()))
    found = {"all": shown(bootstrap(whole.mean(1).tolist(), texts), 4)}
    for distance in DISTANCES:
        found[str(distance)] = shown(bootstrap(whole[:, distance - 1].tolist(), texts), 4)
    for name, own in gaps.items():
        groups = [str(i // points) for i in range(len(own))]
        found[name] = shown(bootstrap(own.mean(1).tolist(), groups), 4)
    return found


def table(rows: Mapping[str, Mapping[str, str]], columns: Sequence[str]) -> str:
    """The rows as a Markdown table."""
    lines = ["| variant | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, row in rows.items():
        lines.append(f"| `{name}` | " + " | ".join(row[column] for column in columns) + " |")
    return "\n".join(lines)


def main() -> None:
    """Train what is not trained yet, then measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--variants", default=",".join(TRAINED), help="which to train")
    parser.add_argument("--only-measure", action="store_true")
    parser.add_argument("--measured", default=",".join((*UNTRAINED, *TRAINED)))
    parser.add_argument("--held-out", type=int, default=24, help="texts of each domain")
    given = parser.parse_args()
    recipe = replace(read_table(given.config, CoprocessorRecipe), held_out=given.held_out)
    source = folder_of(recipe.target, "target")
    corpus = prepared(recipe, given.data, source, given.out)
    target = Decoder.load(source)
    recipes = {name: recipe_of(recipe, name, given.steps) for name in (*UNTRAINED, *TRAINED)}
    if not given.only_measure:
        for name in given.variants.split(","):
            train(name, recipes[name], target, corpus, given.out / name)
    torch.set_num_threads(max(recipe.threads, 1))
    records: dict[str, Losses] = {}
    for name in given.measured.split(","):
        found = measured(name, recipes[name], target, corpus, given.out / name)
        if found is not None:
            records[name] = found
    base, rows = records["base"], dict[str, dict[str, str]]()
    for name, found in records.items():
        mean = float(torch.cat(list(found.values())).mean())
        numbers = trained_numbers(name, recipes[name], target)
        rows[name] = {"trained": f"{numbers:,}", "loss": f"{mean:.4f}"}
        rows[name] |= compared(found, base, recipe.points)
        by_distance = torch.cat(list(found.values())).mean(0).tolist()
        line = {"variant": name, **rows[name], "by_distance": [round(x, 4) for x in by_distance]}
        with (given.out / "measured.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
    print(table(rows, ["trained", "loss", "all"]))
    print(table(rows, [str(distance) for distance in DISTANCES]))
    print(table(rows, list(base)))
    for count in COUNTS:  # the same rows, and whether they depend on the text
        ours, others = records.get(f"coprocessor-{count}"), records.get(f"prompt-{count}")
        if ours is not None and others is not None:
            print(
                f"coprocessor-{count} less prompt-{count}:", compared(ours, others, recipe.points)
            )


if __name__ == "__main__":
    main()
