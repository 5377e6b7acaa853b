"""Teach a small model to copy: a target on which copying drafters have something to do.

The family's target repeats the first words of a text it is asked to repeat, and then goes its own
way, so no drafter can copy for it. This script trains it further on copying tasks alone, half of
them over random tokens (which can only be solved by looking back), and writes a checkpoint for
`outrider bench`:

    python benchmarks/copier.py --data DIR --out runs/copier --minutes 60
    outrider bench runs/copier/target --strategies lookup,... --workloads copy

DIR holds `pd_books/children.jsonl.zst` and `pd_books/val.jsonl.zst` (public-domain books, the files
of configs/tiny.toml). The same command goes on where it was stopped. The model is a measuring
instrument: it forgets most of what is not copying.
"""

import argparse
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor
from transformers import LlamaForCausalLM

from outrider.models.sources.families import families_folder
from outrider.training.core.config import Source, Stage
from outrider.training.core.corpus import documents
from outrider.training.core.formats import ASSISTANT, question
from outrider.training.core.loop import StageRun, StopSignal, run_stage
from outrider.training.core.models import export_model
from outrider.training.core.optim import make_optimizers

BATCH = 8
NOMINAL = 400
"""Tokens that a document is counted as; the schedule goes by minutes."""
LONGEST = 640
IGNORED = -100


def main() -> None:
    """Train, then export."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with pd_books/")
    parser.add_argument("--out", type=Path, required=True, help="checkpoints and the model")
    parser.add_argument("--minutes", type=float, default=60.0, help="when to stop")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    source = families_folder() / "tiny" / "target"
    tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))
    model = LlamaForCausalLM.from_pretrained(source, dtype=torch.float32)
    rows = Rows(tokenizer, copies(given.data, "children"))
    held_out = Rows(tokenizer, copies(given.data, "val")[:64], random_share=0.0)
    stage = Stage(
        tokens=10**12,
        sequence_length=NOMINAL,
        batch=BATCH,
        micro_batch=BATCH,
        learning_rate=2e-3,
        warmup_tokens=50 * BATCH * NOMINAL,
        max_minutes=given.minutes,
    )

    def step(row: int) -> dict[str, float]:
        loss, right = answered(model, *rows.batch(row // BATCH))
        loss.backward()
        return {"loss": float(loss.detach()), "right": float(right)}

    def evaluate() -> dict[str, float]:
        with torch.no_grad():
            found = [answered(model, *held_out.batch(i)) for i in range(4)]
        return {"held_out_right": sum(float(right) for _, right in found) / len(found)}

    with StopSignal() as stop:
        run_stage(
            StageRun(
                name="copier",
                folder=given.out,
                stage=stage,
                models={"target": model},
                optimizers=make_optimizers(model, "target"),
                step=step,
                evaluate=evaluate,
                stop=stop,
                at_minutes=tuple(range(10, int(given.minutes), 10)),
                at_minutes_do=lambda: export_model(model, tokenizer, given.out / "target"),
            )
        )
    export_model(model, tokenizer, given.out / "target")


def copies(data: Path, part: str) -> list[str]:
    """Copying tasks made from the books."""
    source = Source(name=f"copies-{part}", file=f"pd_books/{part}.jsonl.zst", format="copy_task")
    return documents(source, data, seed=7)


class Rows:
    """Batches of tasks; a batch is decided by its number alone."""

    def __init__(
        self, tokenizer: Tokenizer, tasks: list[str], *, random_share: float = 0.5
    ) -> None:
        self.tokenizer, self.tasks, self.random_share = tokenizer, tasks, random_share
        self.marker = tokenizer.token_to_id(ASSISTANT)

    def batch(self, number: int) -> tuple[Tensor, Tensor]:
        """Ids and labels `[BATCH, longest]`; labels stand at the answers alone."""
        rng = random.Random(number)
        texts = [list(self._one(rng)) for _ in range(BATCH)]
        width = max(map(len, texts))
        ids = torch.zeros(BATCH, width, dtype=torch.int64)
        labels = torch.full((BATCH, width), IGNORED)
        for i, text in enumerate(texts):
            ids[i, : len(text)] = torch.tensor(text)
            answer = text.index(self.marker) + 2  # a line break follows the marker
            labels[i, answer : len(text)] = ids[i, answer : len(text)]
        return ids, labels

    def _one(self, rng: random.Random) -> Iterator[int]:
        while True:
            task = rng.choice(self.tasks)
            if rng.random() < self.random_share:
                task = question("Repeat this text exactly:\n\n" + (text := self._noise(rng)), text)
            ids = self.tokenizer.encode(task).ids
            if self.marker in ids and len(ids) <= LONGEST:
                yield from ids
                return

    def _noise(self, rng: random.Random) -> str:
        ids = [rng.randrange(300, 4000) for _ in range(rng.randint(10, 120))]
        return self.tokenizer.decode(ids).strip()


def answered(model: Any, ids: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The loss over the answers, and the share of their tokens that come first."""
    logits = model(input_ids=ids[:, :-1], use_cache=False).logits.flatten(0, 1)
    wanted = labels[:, 1:].flatten()
    at = wanted != IGNORED
    loss = F.cross_entropy(logits[at], wanted[at])
    return loss, (logits[at].argmax(-1) == wanted[at]).float().mean()


if __name__ == "__main__":
    main()
