"""Let the model answer training prompts: half of them greedily, half at temperature 0.8."""

import argparse
import json
import time
from itertools import islice
from pathlib import Path

from benchmarks.real_models.recorded import answers
from benchmarks.real_models.students.prompts import chats

from outrider import load
from outrider.models.checkpoints.tokenizer import Tokenizer

_BATCH = 24


def write_answers(model: str, data: Path, out: Path, minutes: float, tokens: int) -> None:
    """Append lines of token ids (`prompt`, `answer`) to `out` until the minutes are over."""
    out.parent.mkdir(parents=True, exist_ok=True)
    done = len(out.read_text().splitlines()) if out.exists() else 0
    generator = load(model, mode="none", dtype="int8", threads=1)
    codec = Tokenizer.load(model)
    source = islice(chats(data), done, None)
    begun, written = time.monotonic(), 0
    while time.monotonic() - begun < 60 * minutes and (batch := list(islice(source, _BATCH))):
        lines = answers(
            generator,
            codec,
            [prompt for prompt, _ in batch],
            max_new_tokens=tokens,
            temperature=0.8 if done // _BATCH % 2 else 0.0,
            seed=done,
        )
        with out.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)
        done += len(batch)
        written += sum(len(line["answer"]) for line in lines)
        print(f"{done} answers, {written / (time.monotonic() - begun):.0f} tokens/s", flush=True)


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/students"))
    parser.add_argument("--minutes", type=float, default=12)
    parser.add_argument("--max-new-tokens", type=int, default=128)
    given = parser.parse_args()
    write_answers(
        given.model, given.data, given.out / "answers.jsonl", given.minutes, given.max_new_tokens
    )


if __name__ == "__main__":
    main()
