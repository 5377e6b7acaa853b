"""Speed of texts that follow a JSON schema, on a real model.

    python -m benchmarks.constraints.speed MODEL --schemas FOLDER

`FOLDER` holds JSONSchemaBench. For each schema the model is asked for an instance. Systems answer
in turn, in another order each time, and read the same weights: `free` decodes undrafted without the
grammar, `none` undrafted with it, the others with that drafter and the grammar, and `blind` with
`successors` that do not read the grammar, so that their drafts are only cut by it. All texts with
the grammar must be equal. A ratio is that of the tokens per second after the prompt is read.
Results are written as they come; a second run continues the first.
"""

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.long_inputs.intervals import geometric
from benchmarks.real_models.drafting import Line, read
from rich.progress import track

from outrider import Generator, load
from outrider.bench.constraints.cases import Case, read_cases
from outrider.core.errors import OutriderError
from outrider.drafters.copying.successors import Successors, SuccessorsState
from outrider.protocols import Request

FREE, PLAIN, BLIND = "free", "none", "blind"
SYSTEMS = (FREE, PLAIN, "auto", "suffix", "sam")
ASK = (
    "Write one JSON object that is valid for this JSON schema. Answer with the JSON only.\n\n"
    "Schema:\n{}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Blind(Successors):
    """`successors` that do not read the grammar."""

    def _begin(self, request: Request, old: SuccessorsState | None) -> SuccessorsState:
        state = Successors._begin(self, request, old)
        state.walk = None
        return state


def measure(given: argparse.Namespace) -> None:
    """Answer for all schemas with all systems."""
    done = {key(line) for line in read(given.out)}
    plain = load(given.model, drafter=PLAIN, threads=given.threads)
    target = plain.strategy.target
    names: list[str] = given.systems
    loaded: dict[tuple[str, float], Generator] = {}
    cases = picked(read_cases(given.schemas), given.count, given.characters)
    turns = [(case, float(t)) for case in cases for t in given.temperatures]
    for number, (case, temperature) in enumerate(track(turns, "schemas")):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            line: Line = {"system": name, "temperature": temperature, "case": list(case.key)}
            if key(line) in done:
                continue
            drafter = PLAIN if name == FREE else name
            if (drafter, temperature) not in loaded:
                own = Blind() if drafter == BLIND else drafter
                made = load(target, drafter=own, tokenizer=given.model)
                loaded[drafter, temperature] = made
            line |= answer(loaded[drafter, temperature], case, name, temperature, given.tokens)
            with given.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")


def picked(cases: Sequence[Case], count: int, characters: int) -> list[Case]:
    """Return short schemas of all splits in turn."""
    splits: dict[str, list[Case]] = {}
    for case in cases:
        if len(case.schema) <= characters and any(valid for _, valid in case.instances):
            splits.setdefault(case.split, []).append(case)
    spread = [own[:: max(1, len(own) // count)] for own in splits.values()]
    longest = max(map(len, spread))
    turns = [own[i] for i in range(longest) for own in spread if i < len(own)]
    return turns[:count]


def answer(generator: Generator, case: Case, name: str, temperature: float, tokens: int) -> Line:
    """Return the figures of one answer; of a schema that is refused, the reason."""
    chat = [{"role": "user", "content": ASK.format(case.schema)}]
    limits: Line = {"max_new_tokens": tokens, "temperature": temperature, "seed": 7}
    if name != FREE:
        limits["json_schema"] = case.schema
    try:
        result = generator.generate(chat, **limits)
    except OutriderError as error:
        return {"refused": str(error)}
    counters = result.speculation.target
    return {
        "text": result.text,
        "tokens": list(result.token_ids),
        "finish": str(result.finish_reason),
        "seconds": result.seconds,
        "speed": result.tokens_per_second,
        "rounds": counters.rounds,
        "forced": counters.forced,
        "drafted": counters.drafted,
        "accepted": counters.accepted,
        "origins": {n: [t.drafts, t.drafted, t.accepted] for n, t in counters.tallies.items()},
        "load": os.getloadavg()[0],
    }


def key(line: Line) -> tuple[Any, ...]:
    """Return what identifies a line."""
    return line["system"], line["temperature"], *line["case"]


def report(path: Path, shortest: int) -> None:
    """Print the tables; schemas with fewer tokens than `shortest` are left out."""
    lines = {key(line): line for line in read(path)}
    usable = {k: v for k, v in lines.items() if len(v.get("tokens", ())) >= shortest}
    plain = {k[1:]: line for k, line in usable.items() if k[0] == PLAIN}
    drafted = [(line, plain[k[1:]]) for k, line in usable.items() if k[1:] in plain]
    own = [(a, b) for a, b in drafted if a["system"] not in (PLAIN, FREE)]
    print(f"{sum(a['tokens'] != b['tokens'] for a, b in own)} of {len(own)} texts differ")
    loads = sorted(line["load"] for line in usable.values())
    print(f"load average {loads[0]:.1f} to {loads[-1]:.1f}, median {loads[len(loads) // 2]:.1f}\n")
    print(
        "| system | temperature | schemas | tokens a round | forced | over undrafted | over free |"
    )
    print("|---|---|---|---|---|---|---|")
    free = {k[1:]: line for k, line in usable.items() if k[0] == FREE}
    for name, temperature in dict.fromkeys((k[0], k[1]) for k in usable):
        found = {k[1:]: v for k, v in usable.items() if k[:2] == (name, temperature)}
        tokens = sum(len(v["tokens"]) for v in found.values())
        rounds = sum(v["rounds"] for v in found.values())
        forced = sum(v["forced"] for v in found.values())
        cells = [name, f"{temperature}", f"{len(found)}", f"{tokens / rounds:.2f}"]
        cells += [f"{forced / tokens:.1%}"]
        for base in (plain, free):
            keys = [k for k in found if k in base]
            ratios = [found[k]["speed"] / base[k]["speed"] for k in keys]
            mean = geometric(ratios, [str(k[1:]) for k in keys]) if keys else ()
            cells.append("{:.2f} [{:.2f}, {:.2f}]".format(*mean) if mean else "")
        print("| " + " | ".join(cells) + " |")
    _ablation(usable)


def _ablation(lines: dict[tuple[Any, ...], Line]) -> None:
    """Print what reading the grammar brings, if `auto` was compared with `blind`."""
    pairs = [
        (line, lines[BLIND, *k[1:]])
        for k, line in lines.items()
        if k[0] == "auto" and (BLIND, *k[1:]) in lines
    ]
    if not pairs:
        return
    cases = [str(line["case"]) for line, _ in pairs]
    speed = geometric([a["speed"] / b["speed"] for a, b in pairs], cases)
    rounds = geometric([b["rounds"] / a["rounds"] for a, b in pairs], cases)
    print("auto over blind: speed {:.3f} [{:.3f}, {:.3f}],".format(*speed), end=" ")
    print("tokens a round {:.3f} [{:.3f}, {:.3f}]".format(*rounds))


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", nargs="?", help="leave it out to print the tables only")
    parser.add_argument("--schemas", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/constraint_speed.jsonl"))
    parser.add_argument("--systems", nargs="+", default=list(SYSTEMS))
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--characters", type=int, default=1500)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.0, 0.8])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--shortest", type=int, default=16)
    given = parser.parse_args()
    if given.model:
        if given.schemas is None:
            parser.error("give --schemas, a folder with JSONSchemaBench")
        given.out.parent.mkdir(parents=True, exist_ok=True)
        measure(given)
    report(given.out, given.shortest)


if __name__ == "__main__":
    main()
