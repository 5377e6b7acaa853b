"""A server that trains its draft model between requests, beside one that does not.

    python -m benchmarks.serving.learning_load --requests 96 --streams 3 --pause 1

Both servers run as processes on `tiny`, in turn, with the same requests, each with a seed of its
own, stories before chats. Each stream sends one request after the other, with random pauses: the
server learns while it has nothing to serve. The draft model is that of `tiny` with noise, as in
`online_learning`. A swap is a change of its weights between two rounds. The texts must be equal.
"""

import argparse
import json
import os
import random
import re
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.request import Request, urlopen

from benchmarks.serving.online_learning import shaken, stream
from benchmarks.serving.process import Server, served

from outrider.core.values import JsonValue
from outrider.inputs.given import GivenPrompt

_COUNTERS = {
    "updates": "learner_updates",
    "corrections": "learner_corrections",
    "drafted": "spec_decode_num_draft_tokens",
    "accepted": "spec_decode_num_accepted_tokens",
}


@dataclass(frozen=True, slots=True)
class Run:
    """What one server answered.

    Attributes:
        texts: of the requests, in their order.
        seconds: from the first request to the end of the last one.
        halves: counters after the first and the second half of the requests.
    """

    texts: tuple[str, ...]
    seconds: float
    halves: tuple[dict[str, float], dict[str, float]]

    def acceptance(self, half: int) -> float:
        """Return the share of drafted tokens that were accepted in one half."""
        before = self.halves[0] if half else {"drafted": 0.0, "accepted": 0.0}
        now = self.halves[half]
        return (now["accepted"] - before["accepted"]) / (now["drafted"] - before["drafted"])


def measure(words: Sequence[str], log: Path, asked: argparse.Namespace) -> Run:
    """Start a server, send the requests of each half, some at a time, and stop it."""
    given = list(enumerate(stream(asked.requests)))
    middle = len(given) // 2
    texts: list[str] = []
    halves: list[dict[str, float]] = []
    with served(words, log) as server, ThreadPoolExecutor(asked.streams) as pool:
        begun = time.perf_counter()
        for part in (given[:middle], given[middle:]):
            texts += pool.map(lambda one: answered(server, one[0], one[1], asked), part)
            halves.append(counters(server))
        seconds = time.perf_counter() - begun
    return Run(tuple(texts), seconds, (halves[0], halves[1]))


def answered(server: Server, seed: int, prompt: GivenPrompt, asked: argparse.Namespace) -> str:
    """Send one request after a pause; return its text."""
    time.sleep(random.Random(seed).uniform(0, 2 * asked.pause))
    body: dict[str, JsonValue] = {"max_tokens": asked.tokens, "temperature": 0.7, "seed": seed}
    if isinstance(prompt, str):
        place, own = "/completions", {"prompt": prompt}
    else:
        place, own = "/chat/completions", {"messages": prompt}
    sent = json.dumps({"model": "tiny"} | body | own).encode()
    request = Request(server.url + place, sent, {"Content-Type": "application/json"})
    with urlopen(request, timeout=600) as answer:
        [choice] = json.load(answer)["choices"]
    return choice.get("text", choice.get("message", {}).get("content", ""))


def counters(server: Server) -> dict[str, float]:
    """Return the counters of `_COUNTERS` that the server reports."""
    with urlopen(server.url.removesuffix("/v1") + "/metrics", timeout=60) as answer:
        text = answer.read().decode()
    found: dict[str, float] = {}
    for name, metric in _COUNTERS.items():
        values = re.findall(rf"^outrider:{metric}(?:_total)?\{{[^}}]*\}} (\S+)$", text, re.M)
        if values:
            found[name] = sum(map(float, values))
    return found


def main() -> None:
    """Run both servers and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=96, help="of both subjects together")
    parser.add_argument("--streams", type=int, default=3, help="requests at a time")
    parser.add_argument("--pause", type=float, default=1.0, help="mean seconds before a request")
    parser.add_argument("--tokens", type=int, default=48, help="of each answer")
    parser.add_argument("--learn", default="osd(rate=1e-3)", help="the learner")
    parser.add_argument("--noise", type=float, default=0.3, help="in the draft model")
    asked = parser.parse_args()
    runs: list[Run] = []
    with TemporaryDirectory() as folder:
        draft = shaken(Path(folder) / "draft", asked.noise)
        words = ["--target", "tiny", "--draft", str(draft), "--drafter", "model"]
        words += ["--num-speculative-tokens", "4", "--dtype", "float32", "--threads", "1"]
        for number, learn in enumerate(([], ["--learn", asked.learn])):
            log = Path(folder) / f"server-{number}.log"
            runs.append(measure([*words, *learn], log, asked))
    plain, learned = runs
    different = sum(a != b for a, b in zip(plain.texts, learned.texts, strict=True))
    print("| | fixed draft model | learning |")
    print("|---|--:|--:|")
    for half, subject in enumerate(("stories", "chats")):
        print(
            f"| accepted, {subject} | {plain.acceptance(half):.3f} "
            f"| {learned.acceptance(half):.3f} |"
        )
    print(f"| seconds | {plain.seconds:.1f} | {learned.seconds:.1f} |")
    print(f"| swaps | 0 | {learned.halves[1]['updates']:.0f} |")
    print(f"{different} of {asked.requests} texts differ; load {os.getloadavg()[0]:.1f}")
    assert not different, "learning changed a text"


if __name__ == "__main__":
    main()
