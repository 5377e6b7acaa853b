"""Frozen features with labels, for `benchmarks.kv_cache.bottleneck`; written once, then read.

    python -m benchmarks.kv_cache.bottleneck_states smollm2 --trivia train.jsonl.zst \\
        --out trivia.safetensors --seconds 560
    python -m benchmarks.kv_cache.bottleneck_states tiny-vision --sprite DIR --photos DIR \\
        --out sprite.safetensors

Questions of ten topics: the last state of a language model after the question and the words "Topic
of the question:". Texts without labels are questions of the other topics. Pictures of ten kinds of
clothes: the mean of the image tokens that the vision encoder of `tiny-vision` makes. Pictures
without labels are photographs of clothes, grey and of the same size: another data set, as in the
paper. Run again, the first command continues where `--seconds` ended it.
"""

import argparse
import json
import random
import tarfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from time import perf_counter

import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from outrider import load
from outrider.core.types import ImagePrompt
from outrider.engine.labels.states import StateReader
from outrider.inputs.lines import numbered_lines

TOPICS = (
    *("animals", "geography", "history", "hobbies", "literature"),
    *("movies", "music", "science-technology", "sports", "television"),
)
FORM = "Question: {text}\nTopic of the question:"
PER_TOPIC, PLAIN = 400, 1536
PLAIN_PHOTOS = 1024
_PART = 64

Item = tuple[str, int]
"""A text, or the name of a picture, with its label; -1: it has none."""


def questions(file: Path) -> list[Item]:
    """`PER_TOPIC` questions of each topic and `PLAIN` others, mixed."""
    records = [json.loads(line) for _, line in numbered_lines(file)]
    random.Random(0).shuffle(records)
    topics: dict[str, list[str]] = defaultdict(list)
    for record in records:
        topics[record["category"]].append(record["question"])
    chosen = [(text, i) for i, name in enumerate(TOPICS) for text in topics[name][:PER_TOPIC]]
    others = [(record["question"], -1) for record in records if record["category"] not in TOPICS]
    mixed = chosen + others[:PLAIN]
    random.Random(1).shuffle(mixed)
    return mixed


def continued(
    items: Sequence[Item], read: Callable[[list[str]], Tensor], out: Path, seconds: float
) -> None:
    """Read what `out` still lacks, in parts, and write it after each of some parts."""
    states = [load_file(out)["states"]] if out.is_file() else []
    done, until = sum(map(len, states)), perf_counter() + seconds
    while done < len(items) and perf_counter() < until:
        states.append(read([text for text, _ in items[done : done + _PART]]))
        done += len(states[-1])
        if len(states) % 8 == 0:
            write(out, torch.cat(states), items)
    write(out, torch.cat(states), items)
    print(f"{done} of {len(items)}", flush=True)


def write(out: Path, states: Tensor, items: Sequence[Item]) -> None:
    """Write features and their labels."""
    labels = torch.tensor([label for _, label in items[: len(states)]])
    save_file({"states": states.contiguous(), "labels": labels}, out)


def pictures(sprite: Path, photos: Path) -> Iterator[tuple[Image.Image, int]]:
    """All pictures of the sprite with their labels, then photographs without."""
    named = (json.loads(line) for _, line in numbered_lines(sprite / "captions.jsonl"))
    labels = {one["file"]: int(one["label"]) for one in named}
    with tarfile.open(sprite / "images.tar") as tar:
        for member in tar:
            if (name := member.name.removeprefix("./")) in labels and (
                file := tar.extractfile(member)
            ):
                yield Image.open(file).convert("RGB"), labels[name]
    with tarfile.open(photos / "train.tar") as tar:
        members = [member for member in tar if member.isfile()]
        for member in random.Random(0).sample(members, PLAIN_PHOTOS):
            if file := tar.extractfile(member):
                yield Image.open(file).convert("L").resize((28, 28)).convert("RGB"), -1


def picture_states(model: str, given: Sequence[Image.Image]) -> Tensor:
    """The mean image token of each picture."""
    encoder = load(model, threads=1).strategy.target.vision_encoder  # type: ignore[attr-defined]
    message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}
    found: list[Tensor] = []
    for start in range(0, len(given), _PART):
        part = [
            ImagePrompt(messages=(message,), images=(one,)) for one in given[start : start + _PART]
        ]
        for prompt in encoder.views(part):
            places = [i for i, t in enumerate(prompt.token_ids) if t in encoder.image_token_ids]
            found.append(prompt.embeddings[places].float().mean(0))
    return torch.stack(found)


def main() -> None:
    """Read texts or pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--trivia", type=Path)
    parser.add_argument("--sprite", type=Path)
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=560.0)
    given = parser.parse_args()
    if given.trivia:
        generator = load(given.model, threads=1)
        reader = StateReader(generator.strategy.target, generator.tokenizer, form=FORM)  # type: ignore[arg-type]
        continued(questions(given.trivia), reader.read, given.out, given.seconds)
        return
    found = list(pictures(given.sprite, given.photos))
    states = picture_states(given.model, [picture for picture, _ in found])
    write(given.out, states, [("", label) for _, label in found])
    print(f"{len(states)} pictures", flush=True)


if __name__ == "__main__":
    main()
