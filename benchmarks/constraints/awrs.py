"""Particles with AWRS weights beside token masking, on a real model.

    python -m benchmarks.constraints.awrs MODEL --out runs/awrs.jsonl
    python -m benchmarks.constraints.awrs --out runs/awrs.jsonl --summary

`choice`: one of 50 names of cities. All of their probabilities under the model are computed, so
that the distribution of a draw can be compared with the model's own. `regex` and `schema`: texts of
a pattern and of a JSON schema, of which there are too many. The gap is log evidence minus the mean
of its estimate: an upper limit of the divergence of a draw's distribution from the model's own.
Weights are `estimated` by AWRS from questions about one token at a time, or `exact` from masks; one
particle is token masking. Results are written as they come; a second run continues the first.
"""

import argparse
import json
import math
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.constraints.enumeration import enumerate_texts
from benchmarks.real_models.drafting import Line, read

from outrider import Constraint, Generator, load
from outrider.engine.particles.posterior import Posterior

PARTICLES = (1, 4, 8, 16)
PLACES = [
    *("Paris", "London", "Berlin", "Madrid", "Rome", "Vienna", "Lisbon", "Prague", "Dublin"),
    *("Oslo", "Athens", "Warsaw", "Budapest", "Brussels", "Cairo", "Nairobi", "Lagos", "Tokyo"),
    *("Kyoto", "Beijing", "Shanghai", "Delhi", "Mumbai", "Sydney", "Melbourne", "Canberra"),
    *("Toronto", "Ottawa", "Chicago", "Boston", "Seattle", "Denver", "Miami", "Houston", "Dallas"),
    *("Lima", "Bogota", "Quito", "Caracas", "Santiago", "New York", "New Delhi", "New Orleans"),
    *("San Francisco", "San Diego", "San Jose", "Los Angeles", "Las Vegas", "Cape Town"),
    "Buenos Aires",
]
ASKED = {
    "choice": [
        "Name a city. Answer with the name only.",
        "Name a city in the United States. Answer with the name only.",
        "What is the capital of Australia? Answer with the name of the city only.",
        "Which city has the best food? Answer in one or two words.",
        "Name a city at the sea. Answer with the name only.",
        "Where should we spend the holidays? Answer with the name of a city only.",
    ],
    "regex": [
        "When does the shop close? Answer with a time only, such as 18:05.",
        "When do you get up? Answer with a time only, such as 18:05.",
        "When does the train leave? Answer with a time only, such as 18:05.",
        "When is lunch? Answer with a time only, such as 18:05.",
        "When does the film begin? Answer with a time only, such as 18:05.",
        "Invent a time of day. Answer with the time only, such as 18:05.",
    ],
    "schema": [
        "Invent a person. Answer with a JSON object with name and age only.",
        "Invent a child. Answer with a JSON object with name and age only.",
        "Invent a grandmother. Answer with a JSON object with name and age only.",
        "Describe a pop star. Answer with a JSON object with name and age only.",
        "Describe a king. Answer with a JSON object with name and age only.",
        "Who teaches you? Answer with a JSON object with name and age only.",
    ],
}
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "pattern": "^[A-Z][a-z]{1,9}$"},
        "age": {"type": "integer", "minimum": 0, "maximum": 110},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
HOW: dict[str, dict[str, Any]] = {
    "choice": {"constraint": Constraint.choice(PLACES)},
    "regex": {
        "constraint": Constraint.regex(r"([01]?[0-9]|2[0-3]):[0-5][0-9]( ?(am|pm|AM|PM))?\.?")
    },
    "schema": {"constraint": Constraint.json_schema(SCHEMA, whitespace=" ?")},
}


def measure(given: argparse.Namespace) -> None:
    """Write one line for each task, prompt, number of particles, kind of weights and seed."""
    done = {key(line) for line in read(given.out)}
    generator = load(given.model, drafter="none", threads=given.threads)
    begun = time.monotonic()
    given.out.parent.mkdir(parents=True, exist_ok=True)
    with given.out.open("a", encoding="utf-8") as out:
        for seed in range(-1, given.seeds):
            for task, prompts in ASKED.items():
                for prompt in prompts[: given.prompts]:
                    for line in lines(generator, task, prompt, seed, done):
                        out.write(json.dumps(line) + "\n")
                        out.flush()
                        if time.monotonic() - begun > given.minutes * 60:
                            return


def lines(generator: Generator, task: str, prompt: str, seed: int, done: set[tuple[Any, ...]]):
    """Yield the lines of one prompt and seed that are not done; seed -1 is the exact part."""
    if seed < 0:
        if task == "choice" and (task, prompt, 0, "exact", -1) not in done:
            exact = enumerate_texts(generator, generator.prompt(message(prompt)), PLACES)
            yield {
                **names(task, prompt, 0, "exact", -1),
                "log_evidence": exact.log_evidence,
                "posterior": exact.posterior,
                "masked": exact.masked,
                "rows": exact.rows,
            }
        return
    for mass in ("exact", "estimated"):
        for count in PARTICLES:
            name = names(task, prompt, count, mass, seed)
            if key(name) in done:
                continue
            begin = time.perf_counter()
            found = generator.sample_constrained(
                message(prompt),
                particles=count,
                legal_mass=mass,
                seed=seed,
                max_new_tokens=40,
                top_k=0,
                top_p=1.0,
                **HOW[task],
            )
            yield {**name, **facts(found), "seconds": time.perf_counter() - begin}


def message(prompt: str) -> list[dict[str, str]]:
    """A prompt as a conversation: its answer ends by itself."""
    return [{"role": "user", "content": prompt}]


def names(task: str, prompt: str, particles: int, mass: str, seed: int) -> Line:
    """What a line is about."""
    return {"task": task, "prompt": prompt, "particles": particles, "mass": mass, "seed": seed}


def key(line: Line) -> tuple[Any, ...]:
    """What a line is about, for comparison."""
    return tuple(line[name] for name in ("task", "prompt", "particles", "mass", "seed"))


def facts(found: Posterior) -> Line:
    """What is kept of a result."""
    tokens = sum(len(one.token_ids) for one in found.particles)
    return {
        "texts": found.texts,
        "log_evidence": found.log_evidence,
        "effective_size": found.effective_size,
        "calls": found.checker_calls,
        "tokens": tokens,
        "forwards": found.forwards,
        "resampled": found.resampled,
        "finished": sum(one.finish_reason == "stop" for one in found.particles),
    }


def summarize(found: Sequence[Line]) -> None:
    """Print one row for each task, kind of weights and number of particles."""
    exact = {line["prompt"]: line for line in found if line["seed"] < 0}
    for task in ASKED:
        for mass in ("exact", "estimated"):
            for count in PARTICLES:
                own = [
                    line
                    for line in found
                    if (line["task"], line["mass"], line["particles"]) == (task, mass, count)
                    and line["seed"] >= 0
                ]
                if own:
                    print(f"{task:7} {mass:9} {count:3}: {row(own, found, exact)}")
    for prompt, line in exact.items():
        far = distance(line["masked"], line["posterior"])
        print(f"{prompt!r}: log evidence {line['log_evidence']:.2f}, masking {far:.3f} away")


def row(own: Sequence[Line], found: Sequence[Line], exact: dict[str, Line]) -> str:
    """One row of figures; intervals are bootstrap ones over prompts."""
    by_prompt: dict[str, list[Line]] = {}
    for line in own:
        by_prompt.setdefault(line["prompt"], []).append(line)
    gaps = [evidence(p, found, exact) - mean_log(them) for p, them in by_prompt.items()]
    calls = sum(line["calls"] for line in own) / max(sum(line["tokens"] for line in own), 1)
    seconds = sum(line["seconds"] for line in own) / len(own)
    parts = [
        f"gap {interval(gaps)}",
        f"calls a token {calls:.1f}",
        f"effective size {sum(line['effective_size'] for line in own) / len(own):.1f}",
        f"{seconds:.2f} s",
        f"{len(own)} runs",
    ]
    if all(p in exact for p in by_prompt):
        away = [distance(mixed(them), exact[p]["posterior"]) for p, them in by_prompt.items()]
        noise = [noise_of(exact[p]["posterior"], len(them)) for p, them in by_prompt.items()]
        parts.insert(0, f"distance {interval(away)} (of as many exact draws {interval(noise)})")
    return ", ".join(parts)


def evidence(prompt: str, found: Sequence[Line], exact: dict[str, Line]) -> float:
    """The logarithm of the evidence: computed, or estimated from all runs with exact masses."""
    if prompt in exact:
        return exact[prompt]["log_evidence"]
    own = [x for x in found if x["prompt"] == prompt and x["mass"] == "exact"]
    most = max(x["log_evidence"] for x in own)
    total = sum(x["particles"] for x in own)
    weights = (x["particles"] * math.exp(x["log_evidence"] - most) for x in own)
    return most + math.log(sum(weights) / total)


def mean_log(own: Sequence[Line]) -> float:
    """The mean of the estimates of the logarithm of the evidence."""
    return sum(line["log_evidence"] for line in own) / len(own)


def mixed(own: Sequence[Line]) -> dict[str, float]:
    """The distribution of a draw: the mean of the weighted texts of all seeds."""
    found: dict[str, float] = {}
    for line in own:
        for text, weight in line["texts"].items():
            found[text] = found.get(text, 0.0) + weight / len(own)
    return found


def distance(one: dict[str, float], other: dict[str, float]) -> float:
    """Total variation."""
    return sum(abs(one.get(t, 0.0) - other.get(t, 0.0)) for t in one.keys() | other.keys()) / 2


def noise_of(true: dict[str, float], draws: int) -> float:
    """The mean distance of so many exact draws."""
    generator = random.Random(0)
    texts, weights = list(true), list(true.values())
    away = []
    for _ in range(200):
        drawn = generator.choices(texts, weights, k=draws)
        away.append(distance({t: drawn.count(t) / draws for t in set(drawn)}, true))
    return sum(away) / len(away)


def interval(values: Sequence[float]) -> str:
    """The mean over prompts with a bootstrap interval of 95 %."""
    generator = random.Random(0)
    means = sorted(sum(generator.choices(values, k=len(values))) / len(values) for _ in range(2000))
    mean = sum(values) / len(values)
    return f"{mean:.3f} [{means[50]:.3f}, {means[-51]:.3f}]"


def main() -> None:
    """Measure, or summarise what was measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--out", type=Path, default=Path("runs/awrs.jsonl"))
    parser.add_argument("--seeds", type=int, default=40)
    parser.add_argument("--prompts", type=int, default=6)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--summary", action="store_true")
    given = parser.parse_args()
    if given.summary:
        summarize(read(given.out))
        return
    measure(given)
    summarize(read(given.out))


if __name__ == "__main__":
    main()
