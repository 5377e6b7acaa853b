"""Measure acceptance over a stream of requests that changes its subject half way, with and without
learning.

    python -m benchmarks.serving.online_learning --requests 128 --noise 0.3

The first half of the stream continues stories, the second half answers questions and sums. Prompts
are those that ship with the family `tiny`, in turn, each time with another seed, so that texts do
not repeat. Both runs see the same stream, and their texts are equal.

The draft model of `tiny` was distilled from its target on such texts. `--noise` adds random numbers
to its matrices, in their standard deviations, so that it stands for a draft model that was not.
"""

import argparse
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import process_time

import torch
from safetensors.torch import load_file, save_file

import outrider
from outrider.engine.generator import Generator
from outrider.inputs.given import GivenPrompt
from outrider.models.sources.families import families_folder, family

SUBJECTS = ("story", "chat")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What one request shows: its tokens, and how many drafted ones were accepted."""

    tokens: tuple[int, ...]
    accepted: int
    drafted: int
    rounds: int
    seconds: float


def prompts(subject: str) -> list[GivenPrompt]:
    """Return the prompts of a subject."""
    file = families_folder() / "tiny" / "prompts.jsonl"
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return [
        line["prompt"] if "prompt" in line else line["messages"]
        for line in lines
        if line["kind"] == subject
    ]


def stream(requests: int) -> list[GivenPrompt]:
    """Return the prompts of all requests: half of them on each subject."""
    return [
        own[i % len(own)]
        for own in (prompts(subject) for subject in SUBJECTS)
        for i in range(requests // 2)
    ]


def answers(generator: Generator, given: Sequence[GivenPrompt], tokens: int) -> list[Answer]:
    """Run the stream, one request after the other."""
    found: list[Answer] = []
    for seed, prompt in enumerate(given):
        begun = process_time()
        result = generator.generate(
            prompt, max_new_tokens=tokens, temperature=0.7, seed=seed, ignore_eos=True
        )
        counted = result.speculation.target
        found.append(
            Answer(
                tokens=tuple(result.token_ids),
                accepted=counted.accepted,
                drafted=counted.drafted,
                rounds=counted.rounds,
                seconds=process_time() - begun,
            )
        )
    return found


def rows(plain: Sequence[Answer], learned: Sequence[Answer], window: int) -> list[str]:
    """Return a Markdown table: acceptance in each window of requests."""
    lines = [
        "| Requests | Subject | Fixed draft model | Learning | Tokens a round, fixed | learning |"
    ]
    lines.append("|---|---|---|---|---|---|")
    half = len(plain) // 2
    for start in range(0, len(plain), window):
        both = [run[start : start + window] for run in (plain, learned)]
        rates = [sum(a.accepted for a in part) / sum(a.drafted for a in part) for part in both]
        written = [sum(len(a.tokens) for a in part) / sum(a.rounds for a in part) for part in both]
        lines.append(
            f"| {start + 1} to {start + len(both[0])} | {SUBJECTS[start >= half]} "
            f"| {rates[0]:.3f} | {rates[1]:.3f} | {written[0]:.2f} | {written[1]:.2f} |"
        )
    return lines


def shaken(folder: Path, noise: float) -> Path:
    """Write the draft model of `tiny` with noise to `folder`; return the folder."""
    shutil.copytree(family("tiny")["draft"], folder)
    chance = torch.Generator().manual_seed(1)
    weights = {name: one.float() for name, one in load_file(folder / "model.safetensors").items()}
    for weight in weights.values():
        if weight.ndim == 2:
            weight += noise * weight.std() * torch.randn(weight.shape, generator=chance)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def main() -> None:
    """Run the stream twice and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=128, help="of both subjects together")
    parser.add_argument("--tokens", type=int, default=48, help="of each answer")
    parser.add_argument("--window", type=int, default=16, help="requests of a row of the table")
    parser.add_argument("--learn", default="osd(rate=1e-3)", help="the learner")
    parser.add_argument("--depth", type=int, default=4, help="drafted tokens of a round")
    parser.add_argument("--noise", type=float, default=0.0, help="in the draft model")
    asked = parser.parse_args()
    given = stream(asked.requests)
    runs: list[list[Answer]] = []
    with TemporaryDirectory() as folder:
        draft = shaken(Path(folder) / "draft", asked.noise)
        for learn in (None, asked.learn):
            generator = outrider.load(
                "tiny",
                draft=draft,
                drafter="model",
                num_speculative_tokens=asked.depth,
                dtype="float32",
                threads=1,
                learn=learn,
            )
            runs.append(answers(generator, given, asked.tokens))
            if generator.learner is not None:
                print(dict(generator.learner.counts))
    plain, learned = runs
    assert [a.tokens for a in plain] == [a.tokens for a in learned], "learning changed a text"
    print("\n".join(rows(plain, learned, asked.window)))
    spent = [sum(answer.seconds for answer in run) for run in runs]
    print(f"CPU seconds, training included: fixed {spent[0]:.1f}, learning {spent[1]:.1f}")


if __name__ == "__main__":
    main()
