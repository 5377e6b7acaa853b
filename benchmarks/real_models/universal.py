"""Drafts of a model with another tokenizer, beside undrafted decoding and `transformers`.

    python -m benchmarks.real_models.universal MODEL DRAFT --stories stories.jsonl.zst \
        --questions question.jsonl.zst --dtype float32 --rivals --seconds 540 --out rows.jsonl

Every prompt is answered greedily by each arm in turn, in another order each time:

- `plain`: undrafted; `auto`: the automatic choice with the draft model, which may copy from the
  prompt and may stop drafting; `copies`: the same without the draft model's part, the key idea
  switched off; `universal`: the draft model alone, with drafts of a fixed size; `adaptive`: the
  draft model alone, with sizes by the expected gain and the guard.
- `hf-plain` and `hf-assisted` (with `--rivals`): `transformers` on the same checkpoints in float32,
  without and with `assistant_model`, `tokenizer` and `assistant_tokenizer`.

Stories are raw texts, cut after a number of words; questions are chat messages. Processor seconds
of the process are compared, since the machine is shared; all arms use one thread. A ratio is that
of the seconds of an arm and of the undrafted arm of the same library on the same prompt; intervals
draw prompts. `tokens` is the mean number of tokens of a round of the target.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from benchmarks.real_models.prompts import by_category

from outrider import Generator, load
from outrider.bench.statistics import Ratio
from outrider.models.sources.finding import local_folder
from outrider.training.core.corpus import read_records

Answer = dict[str, Any]
Arm = Callable[[Any, int], Answer]


def prompts(given: argparse.Namespace) -> list[tuple[str, Any]]:
    """Return `(kind, prompt)`, both kinds in turn."""
    records = list(read_records(given.stories))[given.first :]
    stories = [" ".join(one["text"].split()[: given.words]) for one in records[: given.of_each]]
    asked = by_category(given.questions, -(-given.of_each // 6), given.characters)[: given.of_each]
    pairs = zip(stories, asked, strict=False)
    return [
        row
        for story, (_, question) in pairs
        for row in (("story", story), ("question", [{"role": "user", "content": question}]))
    ]


def ours(generator: Generator) -> Arm:
    """Return an arm of this library."""

    def answer(prompt: Any, tokens: int) -> Answer:
        begun, wall = time.process_time(), time.perf_counter()
        result = generator.generate(prompt, max_new_tokens=tokens, temperature=0.0, seed=0)
        spent = time.process_time() - begun
        counted = result.speculation.target
        return {
            "cpu": spent,
            "wall": time.perf_counter() - wall,
            "text": list(result.token_ids),
            "rounds": counted.rounds,
            "drafted": counted.drafted,
            "accepted": counted.accepted,
            "undrafted": counted.undrafted_rounds,
        }

    return answer


def rivals(given: argparse.Namespace, codec: Any) -> dict[str, Arm]:
    """Return the arms of `transformers`."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    places = [local_folder(given.model), local_folder(given.draft)]
    models = [AutoModelForCausalLM.from_pretrained(p, dtype=torch.float32).eval() for p in places]
    tokenizers = [AutoTokenizer.from_pretrained(place) for place in places]
    target, draft = models
    forwards = [0]
    target.register_forward_hook(lambda *_: forwards.__setitem__(0, forwards[0] + 1))
    helped = {
        "assistant_model": draft,
        "tokenizer": tokenizers[0],
        "assistant_tokenizer": tokenizers[1],
    }

    def arm(options: dict[str, Any]) -> Arm:
        def answer(prompt: Any, tokens: int) -> Answer:
            found = codec.encode(prompt) if isinstance(prompt, str) else codec.chat(prompt)
            ids = torch.tensor([found])
            forwards[0] = 0
            begun, wall = time.process_time(), time.perf_counter()
            with torch.no_grad():
                out = target.generate(
                    ids,
                    attention_mask=torch.ones_like(ids),
                    do_sample=False,
                    max_new_tokens=tokens,
                    **options,
                )
            return {
                "cpu": time.process_time() - begun,
                "wall": time.perf_counter() - wall,
                "text": out[0, ids.shape[1] :].tolist(),
                "rounds": forwards[0],
            }

        return answer

    return {"hf-plain": arm({}), "hf-assisted": arm(helped)}


def arms(given: argparse.Namespace) -> dict[str, Arm]:
    """Return all arms; those of this library share the target's weights."""
    plain = load(given.model, dtype=given.dtype, drafter="none", draft="none", threads=1)
    target = plain.strategy.target
    shared: dict[str, Any] = {"tokenizer": given.model, "dtype": given.dtype, "threads": 1}
    sized = f"universal(keep_last={'true' if given.keep_last else 'false'})"
    made = {
        "plain": plain,
        "auto": load(target, draft=given.draft, **shared),
        "copies": load(target, drafter="lookup", **shared),
        "universal": load(
            target,
            draft=given.draft,
            drafter=sized,
            num_speculative_tokens=given.size,
            **shared,
        ),
        "adaptive": load(target, draft=given.draft, drafter="universal", **shared),
    }
    found = {name: ours(made[name]) for name in made if name in given.arms}
    return found | (rivals(given, plain.tokenizer) if given.rivals else {})


def measure(given: argparse.Namespace) -> None:
    """Answer all prompts with all arms, until the time is up."""
    ready = arms(given)
    ends = time.monotonic() + given.seconds
    for arm in ready.values():
        arm("One day", 3)
    for place, (kind, prompt) in enumerate(prompts(given)):
        if time.monotonic() > ends:
            break
        names = list(ready)
        turn = place % len(names)
        for name in names[turn:] + names[:turn]:
            line = {"arm": name, "kind": kind, "prompt": place}
            line |= ready[name](prompt, given.max_new_tokens)
            with given.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")


def report(given: argparse.Namespace) -> None:
    """Print ratios, tokens a round, and whether texts are equal."""
    lines = [json.loads(line) for line in given.out.read_text(encoding="utf-8").splitlines()]
    by: dict[tuple[str, str, int], Answer] = {(n["arm"], n["kind"], n["prompt"]): n for n in lines}
    names = list(dict.fromkeys(line["arm"] for line in lines))
    whole = {place for place in {n["prompt"] for n in lines}}
    whole = {p for p in whole if sum(n["prompt"] == p for n in lines) == len(names)}
    for kind in ("story", "question"):
        for name in names:
            base = "hf-plain" if name.startswith("hf") else "plain"
            places = sorted(p for a, k, p in by if a == name and k == kind and p in whole)
            if not places:
                continue
            mine, other = ([by[n, kind, p] for p in places] for n in (name, base))
            ratio = Ratio.of([b["cpu"] / a["cpu"] for a, b in zip(mine, other, strict=True)])
            assert ratio is not None
            written, rounds = sum(len(a["text"]) for a in mine), sum(a["rounds"] for a in mine)
            equal = sum(a["text"] == b["text"] for a, b in zip(mine, other, strict=True))
            drafted = sum(a.get("drafted", 0) for a in mine)
            kept = sum(a.get("accepted", 0) for a in mine)
            print(
                f"{kind:9} {name:12} speed {ratio.mean:.3f} [{ratio.low:.3f}, {ratio.high:.3f}] of "
                f"{base}; {sum(a['cpu'] for a in mine) / written * 1e3:.1f} cpu ms a token; tokens "
                f"{written / rounds:.3f}; drafted {drafted}, kept {kept}; texts equal "
                f"{equal}/{len(places)}"
            )


def main() -> None:
    """Measure, and print the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("draft")
    parser.add_argument("--stories", type=Path, required=True)
    parser.add_argument("--questions", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--arms", nargs="+", default=["plain", "auto", "copies", "universal"])
    parser.add_argument("--rivals", action="store_true")
    parser.add_argument("--keep-last", action="store_true")
    parser.add_argument("--size", type=int, default=4)
    parser.add_argument("--of-each", type=int, default=6)
    parser.add_argument("--first", type=int, default=500)
    parser.add_argument("--words", type=int, default=40)
    parser.add_argument("--characters", type=int, default=600)
    parser.add_argument("--max-new-tokens", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=540.0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    measure(given)
    report(given)


if __name__ == "__main__":
    main()
