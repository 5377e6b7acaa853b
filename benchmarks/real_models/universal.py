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

`--record FILE` writes undrafted answers to a file instead, in batches, and `--replay FILE` runs
these answers again without the target (`models/replay.py`): rounds, drafts and acceptances are
those of a run with the target, for each of the drafters `--drafters` and the models `DRAFT`, of
which there may be several then. `ms` are the processor milliseconds of a round without the target.

Stories are raw texts, cut after a number of words; questions are chat messages. Processor seconds
of the process are compared, since the machine is shared; all arms use one thread. A ratio is that
of the seconds of an arm and of the undrafted arm of the same library on the same prompt; intervals
draw prompts. `tokens` is the mean number of tokens of a round of the target.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from benchmarks.long_inputs.intervals import bootstrap
from benchmarks.real_models.prompts import by_category
from benchmarks.search.beam import opened

from outrider import Generator, load
from outrider.bench.statistics import Ratio
from outrider.core.types import Prompt
from outrider.decoding import generate
from outrider.decoding.generation import Generation
from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.models.loading import load_model
from outrider.models.replay import Recording, ReplayModel
from outrider.models.sources.finding import local_folder
from outrider.models.wrappers.foreign import ForeignModel
from outrider.policies import FixedLength
from outrider.protocols import Request
from outrider.sampling import Sampler, SamplingParams
from outrider.strategy import Strategy
from outrider.strategy.auto import Automatic
from outrider.training.core.corpus import read_records

_BATCH = 8
"""Answers that are recorded together."""

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


def rivals(given: argparse.Namespace, codec: Any, ends: Sequence[int]) -> dict[str, Arm]:
    """Return the arms of `transformers`."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    place = local_folder(given.draft[0])
    target = opened(given.model)
    target.generation_config.eos_token_id = list(ends)
    draft = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32).eval()
    tokenizers = [codec.tokenizer, AutoTokenizer.from_pretrained(place)]
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
        "auto": load(target, draft=given.draft[0], **shared),
        "copies": load(target, drafter="lookup", **shared),
        "universal": load(
            target,
            draft=given.draft[0],
            drafter=sized,
            num_speculative_tokens=given.size,
            **shared,
        ),
        "adaptive": load(target, draft=given.draft[0], drafter="universal", **shared),
    }
    found = {name: ours(made[name]) for name in made if name in given.arms}
    return found | (rivals(given, plain.tokenizer, target.info.end_ids) if given.rivals else {})


def record(given: argparse.Namespace) -> None:
    """Write undrafted answers to all prompts."""
    plain = load(given.model, dtype=given.dtype, drafter="none", draft="none", threads=1)
    codec = plain.tokenizer
    assert codec is not None
    asked = prompts(given)
    for start in range(0, len(asked), _BATCH):
        part = asked[start : start + _BATCH]
        ids = [codec.encode(p) if isinstance(p, str) else codec.chat(p) for _, p in part]
        found = plain.generate(
            [list(one) for one in ids], max_new_tokens=given.max_new_tokens, temperature=0.0, seed=0
        )
        with given.record.open("a", encoding="utf-8") as file:
            for (kind, _), own, result in zip(part, ids, found, strict=True):
                line = {"kind": kind, "prompt": list(own), "answer": list(result.token_ids)}
                file.write(json.dumps(line) + "\n")


def replay(given: argparse.Namespace) -> None:
    """Run recorded answers again with each drafter; print counts."""
    lines = [json.loads(line) for line in given.replay.read_text(encoding="utf-8").splitlines()]
    like = load_model(given.model, threads=1)
    codec = Tokenizer.load(local_folder(given.model))
    for kind in ("story", "question"):
        texts = [one for one in lines if one["kind"] == kind]
        known = [Recording(tuple(one["prompt"]), tuple(one["answer"])) for one in texts]
        for folder in given.draft:
            draft = load_model(folder, threads=1)
            own = Tokenizer.load(folder)
            foreign = ForeignModel(draft, own=own, target=codec, target_size=like.info.vocab_size)
            for asked in given.drafters:
                build = Automatic(ReplayModel(like, known), [foreign])
                strategy = build.fixed(asked, FixedLength(given.size))
                print(f"{kind:9} {Path(folder).name:10} {asked:30} {_counts(strategy, known)}")


def _counts(strategy: Strategy, known: Sequence[Recording]) -> str:
    """Replay all texts; return what was drafted and kept, with an interval over texts."""
    each: list[float] = []
    rounds = drafted = kept = 0
    begun = time.process_time()
    for one in known:
        sampler = Sampler(SamplingParams(max_new_tokens=len(one.tokens), temperature=0.0, seed=0))
        made = Generation(Request(Prompt(token_ids=one.prompt), sampler))
        for _ in generate(strategy.stage, [made]):
            pass
        assert tuple(made.output) == one.tokens
        counted = made.counters
        each.append(len(one.tokens) / counted.rounds)
        rounds, drafted = rounds + counted.rounds, drafted + counted.drafted
        kept += counted.accepted
    spent = (time.process_time() - begun) / rounds
    mean, low, high = bootstrap(each)
    share = kept / max(drafted, 1)
    return (
        f"tokens a round {mean:.3f} [{low:.3f}, {high:.3f}]; drafted {drafted}, kept {kept} "
        f"({share:.3f}); {spent * 1e3:.2f} ms"
    )


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
    whole = set({n["prompt"] for n in lines})
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
    parser.add_argument("draft", nargs="+")
    parser.add_argument("--stories", type=Path, required=True)
    parser.add_argument("--questions", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("rows.jsonl"))
    parser.add_argument("--record", type=Path)
    parser.add_argument("--replay", type=Path)
    parser.add_argument("--drafters", nargs="+", default=["universal", "lookup", "none"])
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
    if given.record is not None:
        record(given)
    elif given.replay is not None:
        replay(given)
    else:
        measure(given)
        report(given)


if __name__ == "__main__":
    main()
