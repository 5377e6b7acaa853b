"""The time until the first token of one key, alone and while another key floods the server.

    python -m benchmarks.serving.flood MODEL --prompts question.jsonl.zst --threads 2

The quiet key sends one request after the other, at random pauses; the flooding key keeps
`--flood` requests in the queue at all times. Both phases run in turn, `--repeats` times, each with
prompts that were not sent before. The goal: the 95th percentile of the quiet key under the flood
stays below twice its value alone.
"""

import argparse
import os
import random
from collections.abc import Sequence
from statistics import median, quantiles
from time import perf_counter

import outrider
from outrider.bench.workloads import as_chat, read_workloads
from outrider.engine.serving.settings import ServingSettings
from outrider.tuning.concurrency.feeder import Feeder


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print both distributions."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--prompts", default="dialogue")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--flood", type=int, default=64)
    parser.add_argument("--requests", type=int, default=12, help="of the quiet key, each phase")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--longest", type=int, default=600)
    parser.add_argument("--max-num-seqs", type=int, default=16)
    options = parser.parse_args(arguments)
    generator = outrider.load(options.model, threads=options.threads)
    codec = generator.tokenizer
    assert codec is not None
    tasks = read_workloads([options.prompts])
    chats = [as_chat(task.prompt) for task in tasks]
    prompts = [ids for ids in map(codec.chat, chats) if len(ids) <= options.longest]
    random.Random(1).shuffle(prompts)
    quiet = iter(prompts)
    feeder = Feeder(
        generator,
        ServingSettings(max_num_seqs=options.max_num_seqs),
        sampling={"max_new_tokens": options.tokens, "seed": 0},
    )
    found: dict[bool, list[float]] = {False: [], True: []}
    for repeat in range(options.repeats):
        for flooded in (False, True):
            name = f"{repeat}-{flooded}"
            own = [next(quiet) for _ in range(options.requests)]
            found[flooded] += phase(feeder, own, prompts, name, options.flood if flooded else 0)
    for flooded, times in found.items():
        p95 = quantiles(times, n=20, method="inclusive")[-1]
        print(
            f"{'under the flood' if flooded else 'alone'}: first token, median "
            f"{1000 * median(times):.0f} ms, 95th percentile {1000 * p95:.0f} ms, "
            f"{len(times)} requests"
        )
    ends = {f: quantiles(t, n=20, method="inclusive")[-1] for f, t in found.items()}
    print(f"ratio of the percentiles {ends[True] / ends[False]:.2f}; load {os.getloadavg()[0]:.1f}")


def phase(
    feeder: Feeder,
    quiet: Sequence[Sequence[int]],
    flood: Sequence[Sequence[int]],
    name: str,
    waiting: int,
) -> list[float]:
    """Send the quiet key's requests one after the other; return the times to their first tokens."""
    chance, sent = random.Random(name), 0
    times: list[float] = []
    for number, ids in enumerate(quiet):
        until = perf_counter() + chance.uniform(0.1, 0.4)
        id, asked = f"quiet-{name}-{number}", False
        while f"{id}/0" not in feeder.texts:
            state = feeder.engine.state
            for _ in range(waiting - state.waiting if waiting else 0):
                own = [chance.randrange(1000, 2000), *flood[sent % len(flood)]]
                feeder.submit(f"flood-{name}-{sent}", own, "flood")
                sent += 1
            if not asked and perf_counter() > until:
                feeder.submit(id, ids, "quiet")
                asked = True
            feeder.engine.step()
        times.append(feeder.first[id])
    for number in range(sent):
        feeder.engine.cancel(f"flood-{name}-{number}")
    while feeder.engine.busy:
        feeder.engine.step()
    return times


if __name__ == "__main__":
    main()
