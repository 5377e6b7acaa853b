"""Figures of records by split: coverage, wrong judgements, times and forced tokens of engines; and
of texts."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from outrider.bench.strategies import BASELINE
from outrider.core.values import JsonValue

ALL = "all"
"""The name of all splits together."""

STEPS = 8
"""Classes of mask times for each factor of two: percentiles are exact to 5 %."""


def summary(records: Sequence[dict[str, JsonValue]]) -> list[dict[str, JsonValue]]:
    """Return a row for each engine and split, and for each engine one of all splits.

    A row has numbers of schemas: `schemas`, `accepted`, `refused` (by the engine), `limit` (refused
    by Outrider's limits), `slow`, `crash`, and among the accepted `over` (a valid instance is not
    admitted), `under` (an invalid one is), `disputed` (a label contradicts the validator) and
    `failed` (the engine gave up in an instance). Shares: `declared` is accepted of all, `true` the
    accepted without over, under and failed of all, `compliance` the accepted without under of the
    accepted, `single` and `forced` of the tokens of valid instances. `respelled` is the number of
    their tokens that the grammar admits and the mask does not. Times: `compile_ms` and
    `mask_us` with percentiles.
    """
    found = []
    for engine in dict.fromkeys(record["engine"] for record in records):
        own = [record for record in records if record["engine"] == engine]
        splits = list(dict.fromkeys(record["split"] for record in own))
        for split in splits if len(splits) > 1 else []:
            found.append(_row(engine, split, [r for r in own if r["split"] == split]))
        found.append(_row(engine, ALL, own))
    return found


def reasons(records: Sequence[dict[str, JsonValue]]) -> dict[str, dict[str, int]]:
    """Return for each engine how many schemas were refused, by reason."""
    found: dict[str, Counter[str]] = {}
    for record in records:
        if record["outcome"] != "accepted":
            found.setdefault(record["engine"], Counter())[record["reason"]] += 1
    return {engine: dict(counts.most_common()) for engine, counts in found.items()}


def _row(engine: str, split: str, records: Sequence[dict[str, JsonValue]]) -> dict[str, JsonValue]:
    outcomes = Counter(record["outcome"] for record in records)
    good = [record for record in records if record["outcome"] == "accepted"]
    row: dict[str, JsonValue] = {"engine": engine, "split": split, "schemas": len(records)}
    for name in ("accepted", "refused", "limit", "slow", "crash"):
        row[name] = outcomes[name]
    for name in ("over", "under", "disputed", "failed"):
        row[name] = sum(record[name] > 0 for record in good)
    wrong = sum(any(record[name] for name in ("over", "under", "failed")) for record in good)
    row["declared"] = len(good) / len(records)
    row["true"] = (len(good) - wrong) / len(records)
    row["compliance"] = 1.0 - row["under"] / len(good) if good else None
    for name in ("valid", "invalid", "tokens", "respelled"):
        row[name] = sum(record[name] for record in good)
    for name in ("single", "forced"):
        count = sum(record[name] for record in good)
        row[name] = count / row["tokens"] if row["tokens"] else None
    row["compile_ms"] = _compile_times(good)
    row["mask_us"] = _mask_times(good)
    return row


def _compile_times(records: Sequence[dict[str, JsonValue]]) -> dict[str, float]:
    if not records:
        return {}
    times = 1000.0 * np.array([record["compile_seconds"] for record in records])
    cuts = np.percentile(times, (50, 99))
    return {"p50": float(cuts[0]), "p99": float(cuts[1]), "max": float(times.max())}


def _mask_times(records: Sequence[dict[str, JsonValue]]) -> dict[str, float]:
    """Return percentiles of classes of times."""
    counts: Counter[int] = Counter()
    for record in records:
        counts.update({int(step): count for step, count in record["masks"].items()})
    if not counts:
        return {}
    steps = sorted(counts)
    reached = np.cumsum([counts[step] for step in steps])
    found = {}
    for name, share in (("p50", 0.5), ("p99", 0.99), ("p999", 0.999)):
        place = int(np.searchsorted(reached, share * reached[-1]))
        found[name] = 2.0 ** (steps[place] / STEPS)
    found["max"] = 1e6 * max(record["slowest_mask_seconds"] for record in records)
    return found


def text_summary(records: Sequence[Mapping[str, JsonValue]]) -> list[dict[str, JsonValue]]:
    """Return a row for each strategy and split, and for each strategy one of all splits.

    `finished` are the texts that ended before the limit, `valid` those that validate. Shares:
    `finished_share` and `valid_share` are of all texts, `compliance` is the share of valid texts
    among the finished ones, `forced` that of tokens without a forward. `same` is the number of
    texts that equal those of the undrafted baseline.
    """
    plain = {
        (record["split"], record["id"]): record["text"]
        for record in records
        if record["strategy"] == BASELINE
    }
    found = []
    for name in dict.fromkeys(record["strategy"] for record in records):
        own = [record for record in records if record["strategy"] == name]
        splits = sorted({record["split"] for record in own})
        for split in splits if len(splits) > 1 else []:
            found.append(_text_row(name, split, [r for r in own if r["split"] == split], plain))
        found.append(_text_row(name, ALL, own, plain))
    return found


def _text_row(
    name: str,
    split: str,
    records: Sequence[Mapping[str, JsonValue]],
    plain: Mapping[tuple[JsonValue, JsonValue], JsonValue],
) -> dict[str, JsonValue]:
    texts = len(records)
    finished = [record for record in records if record["finished"]]
    tokens, seconds = (sum(record[name] for record in records) for name in ("tokens", "seconds"))
    valid = sum(record["valid"] for record in records)
    return {
        "strategy": name,
        "split": split,
        "texts": texts,
        "finished": len(finished),
        "valid": valid,
        "same": sum(plain.get((r["split"], r["id"])) == r["text"] for r in records),
        "tokens": tokens,
        "forwards": sum(record["forwards"] for record in records),
        "finished_share": len(finished) / texts,
        "valid_share": valid / texts,
        "compliance": sum(r["valid"] for r in finished) / len(finished) if finished else None,
        "forced": sum(record["forced"] for record in records) / tokens if tokens else None,
        "tokens_per_second": tokens / seconds if seconds else None,
    }
