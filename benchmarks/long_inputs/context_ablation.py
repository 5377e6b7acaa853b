"""Which settings of a selection find most, and swap least: one setting at a time.

    python -m benchmarks.long_inputs.context_ablation --data DIR --out runs/ablation

No model runs. ModelWrapper the defaults (`--base` changes them) each row varies one setting, at
`--keep-ratio`, over a sample of the documents of `planted_facts`, of 8k to 15k tokens:

- found: share of the cases whose needed chunks are all read, for a need that the instruction states
  (`stated`) and for one that the writing turns to (`turned`, after the second look); of the latter,
  where the chunk is not read by chance when the writing turns, the share that is found (`admitted`)
  and the tokens from the turn until it is read.
- swaps per 1,000 tokens of human summaries of SQuALITY stories that are forced to be written, and
  tokens read again for them, per 1,000 written, by each way to recompute (from sizes; the
  instruction is left out). These are people's texts: a model may wander more, or less.

`--also chunk_size=128,hysteresis=0.05` adds a row with several settings at once.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import mean, median
from typing import Any

from benchmarks.long_inputs.inputs.documents import known_cases, own_cases
from benchmarks.long_inputs.inputs.needs import Case, delay, judge, length_needed, need_of
from benchmarks.long_inputs.inputs.summaries import Summary, read_summaries
from benchmarks.long_inputs.intervals import wilson
from benchmarks.long_inputs.planted_facts import token_counter
from benchmarks.long_inputs.records import Records, options
from benchmarks.long_inputs.selecting import Workshop, begun, changed, settings_of, write

from outrider.context.config import RECOMPUTE, ContextConfig
from outrider.context.layout import pieces_between, spans_of
from outrider.context.rankers.apce import SUCCESSION, WORDS
from outrider.context.rankers.cosine import WINDOW
from outrider.context.selection import Decision
from outrider.core.types import Fresh, LongContext

RANKER: dict[str, float] = {"window": WINDOW, "words": WORDS, "succession": SUCCESSION}
"""Settings of the ranker, and their defaults: tokens of a passage window, 0 for whole chunks; share
of the score by words; what a chunk lends to the next one."""
VARIED: dict[str, tuple[float, ...]] = {
    "chunk_size": (128, 256, 512),
    "refresh": (32, 64, 128, 256),
    "hysteresis": (0.0, 0.02, 0.05, 0.1, 0.15, 0.2),
    "query_mix": (0.0, 0.25, 0.5, 0.75, 1.0),
    "query_window": (64, 128, 256),
    "max_swaps": (1, 2, 4),
    "window": (0, 32, 64, 128),
    "words": (0.0, 0.2, 0.35, 0.5, 1.0),
    "succession": (0.0, 0.3, 0.6, 0.9),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of the table.

    Attributes:
        label: what is varied.
        config: of the selection.
        ranker: settings as in `RANKER`.
    """

    label: str
    config: ContextConfig
    ranker: Mapping[str, float] = field(default_factory=lambda: dict(RANKER))


@dataclass(slots=True)
class Tally:
    """What one row has found so far."""

    stated: list[bool] = field(default_factory=list)
    turned: list[bool] = field(default_factory=list)
    admitted: list[bool] = field(default_factory=list)
    delays: list[int] = field(default_factory=list)
    written: int = 0
    swaps: int = 0
    again: dict[str, int] = field(default_factory=lambda: dict.fromkeys(RECOMPUTE, 0))


def parsed(text: str) -> dict[str, float]:
    """`name=value,name=value`. Raises `ValueError` for an unknown name."""
    found: dict[str, float] = {}
    for part in filter(None, text.split(",")):
        name, _, value = part.partition("=")
        if name not in VARIED:
            raise ValueError(f"{name!r} is not one of {', '.join(VARIED)}")
        whole = isinstance(VARIED[name][-1], int)
        found[name] = int(value) if whole else float(value)
    return found


def row(base: Row, label: str, settings: dict[str, float]) -> Row:
    """`base` with other settings."""
    ranker = dict(base.ranker) | {k: v for k, v in settings.items() if k in RANKER}
    own = {k: v for k, v in settings.items() if k not in RANKER}
    return Row(label=label, config=changed(base.config, **own), ranker=ranker)


def rows(base: Row, also: Sequence[str]) -> Iterator[Row]:
    """The base, then each setting by itself, then the combinations asked for."""
    yield base
    for name, values in VARIED.items():
        now = base.ranker[name] if name in RANKER else getattr(base.config, name)
        for value in values:
            if value != now:
                yield row(base, f"{name}={value}", {name: value})
    for text in also:
        yield row(base, text, parsed(text))


def measure(
    shop: Workshop, selector: str, cases: Sequence[Case], stories: Sequence[Summary], own: Row
) -> dict[str, Any]:
    """All figures of one row."""
    tally = Tally()
    ranker = shop.ranker(selector, 0, **own.ranker)
    for case in cases:
        _find(shop, ranker, case, own.config, tally)
    for story in stories:
        chunks = shop.library.chunks(story.text, own.config.chunk_size)
        context = shop.library.context(chunks, story.asked)
        ids = shop.library.passage("\n\n".join(story.references)).token_ids
        decisions = write(begun(context, ranker, own.config), ids)
        tally.written += len(ids)
        tally.swaps += sum(len(decision.admitted) for decision in decisions[1:])
        for mode in RECOMPUTE:
            config = changed(own.config, recompute=mode)
            tally.again[mode] += read_again(context, decisions, config)
    return figures(tally)


def _find(shop: Workshop, ranker: Any, case: Case, config: ContextConfig, tally: Tally) -> None:
    chunks = shop.library.chunks(case.text, config.chunk_size)
    tokens_at = token_counter(shop, case)
    ids = shop.library.passage(case.written).token_ids
    ids = ids[: length_needed(case, tokens_at, config.refresh)]
    needs = [need_of(want, chunks, tokens_at, config.refresh) for want in case.wants]
    decisions = write(begun(shop.library.context(chunks, case.asked), ranker, config), ids)
    chosen = [decision.chosen for decision in decisions]
    found, _ = judge(needs, chosen)
    if not case.wants[0].decisions:
        tally.stated.append(found)
        return
    tally.turned.append(found)
    begin = tokens_at(case.wants[0].begin)
    looked = delay(needs[0], begin // config.refresh, chosen)
    if looked == 0:
        return
    tally.admitted.append(found)
    if looked is not None:
        tally.delays.append((begin // config.refresh + looked) * config.refresh - begin)


def read_again(context: LongContext, decisions: Sequence[Decision], config: ContextConfig) -> int:
    """Tokens that are read for the swaps of these decisions."""
    total = 0
    for before, after in pairwise(decisions):
        if before.chosen == after.chosen:
            continue
        length = context.starts[-1] + after.generated
        pieces = pieces_between(
            spans_of(context, before.chosen, length),
            spans_of(context, after.chosen, length),
            range(length),
            config,
            compact=False,
        )
        total += sum(len(piece.token_ids) for piece in pieces if isinstance(piece, Fresh))
    return total


def figures(tally: Tally) -> dict[str, Any]:
    """Plain numbers."""
    per = 1000 / max(tally.written, 1)
    return {
        "stated": mean(tally.stated or [0]),
        "stated_interval": wilson(sum(tally.stated), len(tally.stated)),
        "turned": mean(tally.turned or [0]),
        "turned_interval": wilson(sum(tally.turned), len(tally.turned)),
        "admitted": mean(tally.admitted or [0]),
        "admitted_interval": wilson(sum(tally.admitted), len(tally.admitted)),
        "delay": median(tally.delays) if tally.delays else None,
        "cases": [len(tally.stated), len(tally.turned), len(tally.admitted)],
        "written": tally.written,
        "swaps_per_1000": tally.swaps * per,
        "read_again_per_1000": {mode: count * per for mode, count in tally.again.items()},
    }


def run(args: argparse.Namespace, records: Records) -> None:
    """All rows; those that are there already are left out."""
    shop = Workshop.open(args.kept)
    known = known_cases(args.data, args.per_task, files=("w08000",))
    own = own_cases(args.data, args.per_haystack, files=("w08000",))
    cases = [*known, *own]
    stories = [
        story
        for story in read_summaries(args.data, args.stories, 1)
        if story.dataset == "eval_squality"
    ]
    base = row(
        Row(label="base", config=changed(ContextConfig(), keep_ratio=args.keep_ratio)),
        "base",
        parsed(args.base),
    )
    for one in rows(base, args.also):
        if one.label not in records.keys:
            found = measure(shop, args.selector, cases, stories, one)
            line = records.add("row", key=one.label, **found)
            print(_told(line), flush=True)


def _told(line: dict[str, Any]) -> str:
    again = line["read_again_per_1000"]
    late = "none" if line["delay"] is None else f"{line['delay']:.0f}"
    return (
        f"{line['key']:32} stated {line['stated']:.3f}  turned {line['turned']:.3f}"
        f"  admitted {line['admitted']:.3f} after {late}"
        f"  swaps {line['swaps_per_1000']:5.1f}  read again "
        + "  ".join(f"{mode} {count:.0f}" for mode, count in again.items())
    )


def main() -> None:
    """Measure all of it."""
    parser = options(__doc__)
    parser.add_argument("--selector", default="apce (embeddings)")
    parser.add_argument("--keep-ratio", type=float, default=0.5)
    parser.add_argument("--base", default="", help="settings that all rows have")
    parser.add_argument("--also", nargs="*", default=[], help="rows of several settings")
    parser.add_argument("--per-task", type=int, default=2)
    parser.add_argument("--per-haystack", type=int, default=2)
    parser.add_argument("--stories", type=int, default=8)
    args = parser.parse_args()
    given = settings_of(args)
    given.pop("also")
    records = Records(args.out / "context_ablation.jsonl", given)
    run(args, records)
    print("\nall rows")
    for line in records.of("row"):
        print(_told(line))


if __name__ == "__main__":
    main()
