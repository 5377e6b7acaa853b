"""DoLa on SmolLM2: right and wrong endings of statements, repetition, and processor seconds.

    python -m benchmarks.guidance.dola smollm2 --trivia test.jsonl.zst --seconds 560

An answer is right if the sum of its log-probabilities is the largest of four, by the distribution
of each system; the probability of a token that the mask excludes counts as exp(-1000), as in the
published code; endings with equal sums share. All systems are computed from the same rows of the
model. Intervals draw statements; gains are paired with the plain model. Greedy texts are written
with and without a repetition penalty; `repeated` is the share of 4-grams of tokens that were in the
text before.
"""

import argparse
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter, process_time

import torch
from benchmarks.guidance.pairs import judged
from benchmarks.guidance.prompted.tasks import TOPICS
from benchmarks.guidance.statements import Probe, statements, trivia_choices
from benchmarks.long_inputs.intervals import bootstrap
from torch import Tensor

from outrider import load
from outrider.core.types import NO_IDS, Prompt, Rows, as_ids
from outrider.guidance.dola import Dola
from outrider.guidance.mixed import Mixed
from outrider.guidance.mixer import Found
from outrider.guidance.recipe import Parts
from outrider.inputs.given import TextCodec
from outrider.protocols import Cache, LanguageModel, Segment
from outrider.search.plain import plain_tokens

PROMPTS = (
    "Tell me about the history of Rome.",
    "Explain how rain forms.",
    "Why do people sleep?",
    "Describe the work of a baker.",
    "What is the moon made of?",
    "How do airplanes stay in the air?",
    "Write about a walk in the forest.",
    "What should one know about bees?",
)
EXCLUDED = -1000.0


class Remembered:
    """Reads out each state once, for all systems.

    Args:
        model: whose head reads them.
    """

    def __init__(self, model: LanguageModel) -> None:
        assert model.layered is not None
        self._layered = model.layered
        self.num_layers = model.layered.num_layers
        self._known: dict[bytes, Tensor] = {}

    def read_out(self, states: Tensor) -> Tensor:
        """Return the logits of states."""
        key = states.contiguous().numpy().tobytes()
        if key not in self._known:
            self._known[key] = self._layered.read_out(states).clone()
        return self._known[key]

    def forget(self) -> None:
        """Drop what was read out."""
        self._known.clear()


@dataclass
class Outcome:
    """For each probe whether the right ending was the best, and the share of probability it has."""

    right: list[float] = field(default_factory=list[float])
    share: list[float] = field(default_factory=list[float])
    masked: list[float] = field(default_factory=list[float])


class Judge:
    """Scores the endings of a probe by several systems.

    Args:
        model: the target.
        codec: its tokenizer.
        systems: recipes by name.
    """

    def __init__(self, model: LanguageModel, codec: TextCodec, systems: dict[str, Dola]) -> None:
        self.model, self.codec = model, codec
        self.memory = Remembered(model)
        count = self.memory.num_layers
        self.systems: dict[str, tuple[tuple[int, ...], Mixed]] = {}
        for name, recipe in systems.items():
            built = recipe.build(Parts(target=model, models={}))
            assert isinstance(built, Mixed)
            object.__setattr__(built.mixer, "layered", self.memory)
            self.systems[name] = (recipe.candidates(count), built)
        self.layers = sorted({i for layers, _ in self.systems.values() for i in layers})
        self.found = {name: Outcome() for name in ("plain", *self.systems)}

    def judge(self, probe: Probe) -> None:
        """Score a probe by all systems, from one forward."""
        [cache] = self.model.start([Prompt(token_ids=self.codec.encode(probe.text))])
        tokens: list[int] = []
        parents: list[int] = []
        places: list[tuple[list[int], list[int]]] = []  # the row before each token, and the token
        for ending in probe.endings:
            ids = list(plain_tokens(self.codec, f" {ending}"))
            first = len(tokens)
            places.append(([-1, *range(first, first + len(ids) - 1)], ids))
            parents += [-1, *range(first, first + len(ids) - 1)]
            tokens += ids
        assert self.model.hidden_states is not None
        self.model.hidden_states.watch(cache, self.layers)
        want = as_ids(range(-1, len(tokens)))
        [rows] = self.model.forward([Segment(cache, as_ids(tokens), as_ids(parents))], [want])
        self.memory.forget()
        self._note("plain", rows.logits, places)
        for name, (layers, guided) in self.systems.items():
            self._note(name, self._rows(rows, layers, guided, cache), places)

    def _rows(self, rows: Rows, layers: Sequence[int], guided: Mixed, cache: Cache) -> Tensor:
        assert rows.states is not None
        states = torch.stack([rows.states[self.layers.index(layer)] for layer in layers])
        found = Found(
            cache=cache,  # type: ignore[arg-type]
            want=NO_IDS,
            rows=[replace(rows, states=states)],
            masks=[None],
        )
        return guided.mixer.mixed(found)

    def _note(self, name: str, logits: Tensor, places: list[tuple[list[int], list[int]]]) -> None:
        known = torch.log_softmax(logits.double(), -1).clamp(min=EXCLUDED)
        sums = [sum(float(known[r + 1, t]) for r, t in zip(*one, strict=True)) for one in places]
        outcome = self.found[name]
        shares = torch.softmax(torch.tensor(sums, dtype=torch.float64), 0)
        best = [total for total in sums if total == max(sums)]  # equal ones share
        outcome.right.append(float(sums[0] == best[0]) / len(best))
        outcome.share.append(float(shares[0]))
        outcome.masked.append(float(sums[0] <= EXCLUDED))


def repeated(tokens: Sequence[int], size: int = 4) -> float:
    """Return the share of n-grams that were in the text before."""
    grams = [tuple(tokens[i : i + size]) for i in range(len(tokens) - size + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def shown(values: Sequence[float], *, sign: bool = False) -> str:
    """Return a mean with its interval."""
    mean, low, high = bootstrap(values)
    plus = "+" if sign else ""
    return f"{mean:{plus}.3f} [{low:{plus}.3f}, {high:{plus}.3f}]"


def table(judge: Judge, topics: Sequence[str], wanted: bool) -> None:
    """Print the accuracy of all systems on statements or on trivia."""
    at = [i for i, topic in enumerate(topics) if (topic == "trivia") == wanted]
    if not at:
        return
    print(f"\n{'trivia' if wanted else 'statements'}: {len(at)}")
    print("| system | accuracy | gain over plain | share of the right one | right one excluded |")
    print("|---|---|---|---|---|")
    plain = judge.found["plain"]
    for name, one in judge.found.items():
        right = [one.right[i] for i in at]
        gain = shown([one.right[i] - plain.right[i] for i in at], sign=True)
        share = sum(one.share[i] for i in at) / len(at)
        masked = sum(one.masked[i] for i in at) / len(at)
        print(f"| {name} | {shown(right)} | {gain} | {share:.3f} | {masked:.2f} |", flush=True)


def texts(target: str, tokens: int, prompts: int, until: float) -> None:
    """Write greedy texts, and print their repetition, their loss under the plain model, and cost;
    differences are to the plain model without a penalty, paired."""
    print(
        "\n| system | penalty | texts | repeated 4-grams | minus plain | loss | minus plain |"
        " tokens | CPU ms a token |\n|---|---|--:|---|---|---|---|--:|--:|"
    )
    plain: dict[int, tuple[float, float]] = {}
    judge = load(target, mode="none", threads=1)
    asked = [*PROMPTS, *(f"Tell me about {topic}." for topic in TOPICS)][:prompts]
    for name in ("none", "dola(half=low)", "dola(half=high)"):
        guidance = 1.0 if name == "none" else name
        generator = load(target, mode="none", threads=1, guidance=guidance)
        for penalty in (1.0, 1.2):
            found: dict[int, tuple[float, float]] = {}
            count, spent = 0, 0.0
            for number, text in enumerate(asked):
                if perf_counter() > until:
                    break
                chat = [{"role": "user", "content": text}]
                begun = process_time()
                result = generator.generate(
                    chat, max_new_tokens=tokens, temperature=0.0, repetition_penalty=penalty
                )
                spent += process_time() - begun
                seen = judged(judge.strategy.target, judge.prompt(chat), result.token_ids)
                found[number] = repeated(result.token_ids), float(seen.losses.mean())
                count += len(result.token_ids)
            plain = plain or found
            if found:
                print(row_of(f"{name} | {penalty}", found, plain, count, spent), flush=True)


def row_of(
    name: str,
    found: dict[int, tuple[float, float]],
    plain: dict[int, tuple[float, float]],
    count: int,
    spent: float,
) -> str:
    """Return a row of the table of texts."""
    cells = [str(len(found))]
    for part in (0, 1):
        cells.append(shown([one[part] for one in found.values()]))
        pairs = [(found[i][part], plain[i][part]) for i in found if i in plain]
        cells.append("" if found == plain else shown([a - b for a, b in pairs], sign=True))
    cells += [str(count), f"{1000 * spent / max(count, 1):.0f}"]
    return f"| {name} | {' | '.join(cells)} |"


def main() -> None:
    """Judge the endings, then write texts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target")
    parser.add_argument("--trivia", type=Path, required=True, help="OpenTriviaQA, JSON lines")
    parser.add_argument("--questions", type=int, default=100)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--prompts", type=int, default=len(PROMPTS) + len(TOPICS))
    parser.add_argument("--seconds", type=float, default=560.0)
    given = parser.parse_args()
    begun = perf_counter()
    generator = load(given.target, mode="none", threads=1)
    model, codec = generator.strategy.target, generator.tokenizer
    assert codec is not None and model.layered is not None
    count = model.layered.num_layers
    middle = count // 2
    fixed = (middle // 2 + 1, middle)
    systems = {
        "low": Dola(half="low"),
        "high": Dola(half="high"),
        "low, no mask": Dola(half="low", alpha=0.0),
        "high, no mask": Dola(half="high", alpha=0.0),
        **{f"layer {layer} only": Dola(layers=(layer,)) for layer in fixed},
        f"layer {middle} only, no mask": Dola(layers=(middle,), alpha=0.0),
    }
    judge = Judge(model, codec, systems)
    topics: list[str] = []
    probes = [*statements(), *trivia_choices(given.trivia, given.questions)]
    random.Random(0).shuffle(probes)  # a run that is stopped has judged some of every topic
    for probe in probes:
        if perf_counter() - begun > (0.6 if given.prompts else 1.0) * given.seconds:
            break
        judge.judge(probe)
        topics.append(probe.topic)
    print(f"{len(topics)} of {len(probes)} probes, {perf_counter() - begun:.0f} s", flush=True)
    table(judge, topics, False)
    table(judge, topics, True)
    texts(given.target, given.tokens, given.prompts, begun + given.seconds)
    print(f"{perf_counter() - begun:.0f} s, load {os.getloadavg()}")


if __name__ == "__main__":
    main()
