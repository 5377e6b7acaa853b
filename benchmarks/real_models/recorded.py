"""Record undrafted answers to Spec-Bench prompts, for `benchmarks.real_models.charged_costs`.

    python -m benchmarks.real_models.recorded MODEL --prompts question.jsonl.zst --temperature 0.8

Each line holds the token ids of `prompt` and `answer`, and the `category`. The categories come in
turn, so the first lines are a smaller sample of the same kind.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.real_models.prompts import by_category

from outrider import load
from outrider.bench.workloads import as_chat
from outrider.engine.generator import Generator
from outrider.models.checkpoints.tokenizer import Tokenizer

_BATCH = 24


def record(given: argparse.Namespace) -> None:
    """Write the answers."""
    generator, codec = load(given.model, mode="none"), Tokenizer.load(given.model)
    prompts = by_category(given.prompts, given.of_each, given.characters)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    with given.out.open("w", encoding="utf-8") as file:
        for start in range(0, len(prompts), _BATCH):
            part = prompts[start : start + _BATCH]
            lines = answers(
                generator,
                codec,
                [text for _, text in part],
                max_new_tokens=given.max_new_tokens,
                temperature=given.temperature,
                seed=7,
            )
            for (category, _), line in zip(part, lines, strict=True):
                file.write(json.dumps({**line, "category": category}) + "\n")
            file.flush()


def answers(
    generator: Generator,
    codec: Tokenizer,
    texts: Sequence[str],
    *,
    max_new_tokens: int,
    temperature: float,
    seed: int,
) -> list[dict[str, list[int]]]:
    """Answer texts in one batch; return the token ids of each `prompt` and of its `answer`."""
    chats = [as_chat(text) for text in texts]
    results: Sequence[Any] = generator.generate(  # pyright: ignore[reportAssignmentType]
        chats, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed
    )
    return [
        {"prompt": list(codec.chat(chat)), "answer": list(result.token_ids)}
        for chat, result in zip(chats, results, strict=True)
    ]


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--prompts", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/recorded.jsonl"))
    parser.add_argument("--of-each", type=int, default=25)
    parser.add_argument("--characters", type=int, default=3000)
    parser.add_argument("--max-new-tokens", type=int, default=96)
    parser.add_argument("--temperature", type=float, default=0.8)
    record(parser.parse_args())


if __name__ == "__main__":
    main()
