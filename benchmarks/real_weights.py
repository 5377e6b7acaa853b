"""Quality and speed of real weights, beside llama.cpp on the same files, in turns in one run.

    python -m benchmarks.real_weights quality MODEL.gguf --text story.txt --out runs/weights
    python -m benchmarks.real_weights speed MODEL.gguf --out runs/weights --threads 1 2

`quality` compares each dtype of Outrider, and each file of llama.cpp, with float32 arithmetic on
the weights of MODEL, on 5,000 positions of a text: mean Kullback-Leibler divergence, the share of
positions with the same best token, and the perplexity. `speed` measures writing, forwards over few
rows, and reading, in turns; and the bandwidth of the memory in the same run. `llama_cpp` should be
built for this machine; its build flags are printed. `--files` names more files for llama.cpp.
"""

import argparse
import ctypes
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from outrider.bench.memory import bandwidth_gb_s
from outrider.bench.rivals.llamacpp_session import Session, open_session
from outrider.core.types import NO_IDS, Prompt, as_ids
from outrider.models.checkpoints.opening import open_checkpoint
from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.models.cpu.formats import FORMATS
from outrider.models.cpu.native import NativeDecoder
from outrider.protocols import ChainRequest, Segment
from outrider.sampling import Sampler, SamplingParams

_WINDOW = 1000
_WIDTHS = (1, 2, 4, 8, 16)
_LENGTHS = (128, 512, 2048, 8000)


def main() -> None:
    """Run one part."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=("quality", "speed"))
    parser.add_argument("model", type=Path)
    parser.add_argument("--files", type=Path, nargs="*", default=[], help="more files of llama.cpp")
    parser.add_argument("--text", type=Path)
    parser.add_argument("--positions", type=int, default=5000)
    parser.add_argument("--dtypes", nargs="*", default=["stored", "int8", "bfloat16", "float32"])
    parser.add_argument("--threads", type=int, nargs="*", default=[1])
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--lengths", type=int, nargs="*", default=list(_LENGTHS))
    parser.add_argument("--widths", type=int, nargs="*", default=list(_WIDTHS))
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    with (args.out / f"{args.part}.jsonl").open("a") as log:
        for record in (quality if args.part == "quality" else speed)(args):
            record |= {"load": os.getloadavg()[0]}
            log.write(json.dumps(record) + "\n")
            log.flush()
            print(json.dumps(record), flush=True)


# -- quality ---------------------------------------------------------------------------------


def quality(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield one record for each dtype and each file."""
    tokenizer = Tokenizer.load(args.model)
    ids = list(tokenizer.encode(args.text.read_text(encoding="utf-8")))[: args.positions + 1]
    windows = [ids[i : i + _WINDOW + 1] for i in range(0, len(ids) - 1, _WINDOW)]
    with ExitStack() as stack:
        readers: dict[str, Callable[[list[int]], torch.Tensor]] = {
            f"outrider {name}": _own_reader(args.model, name) for name in args.dtypes
        }
        for file in [args.model, *args.files]:
            session = stack.enter_context(open_session(file, threads=2, half_cache=False))
            readers[f"llama.cpp {file.name}"] = _their_reader(session)
        exact = _own_reader(args.model, "float32")
        sums = {name: np.zeros(4) for name in ("reference", *readers)}
        for window in windows:
            reference = exact(window[:-1]).log_softmax(-1)
            _add(sums["reference"], reference, reference, window)
            for name, read in readers.items():
                _add(sums[name], reference, read(window[:-1]).log_softmax(-1), window)
    for name, (kl, same, loss, count) in sums.items():
        yield {
            "part": "quality",
            "name": name,
            "positions": int(count),
            "kl": kl / count,
            "same_best": same / count,
            "loss": loss / count,
            "perplexity": math.exp(loss / count),
        }


def _add(sums: Any, reference: torch.Tensor, other: torch.Tensor, window: list[int]) -> None:
    targets = torch.tensor(window[1:])
    for first in range(0, len(reference), 100):
        p, q = reference[first : first + 100], other[first : first + 100]
        sums[0] += float((p.exp() * (p - q)).double().sum())
        sums[1] += float((p.argmax(-1) == q.argmax(-1)).sum())
        own = targets[first : first + 100]
        sums[2] -= float(q.gather(1, own[:, None]).double().sum())
        sums[3] += len(p)


def _own_reader(model: Path, dtype: str) -> Callable[[list[int]], torch.Tensor]:
    decoder = NativeDecoder.load(model, dtype=FORMATS[dtype].dtype, threads=2)

    def read(ids: list[int]) -> torch.Tensor:
        [cache] = decoder.start([Prompt(token_ids=(ids[0],))])
        want = as_ids([-1, *range(len(ids) - 1)])
        [rows] = decoder.forward([Segment(cache, as_ids(ids[1:]))], [want])
        return rows.logits

    return read


def _their_reader(session: Session) -> Callable[[list[int]], torch.Tensor]:
    def read(ids: list[int]) -> torch.Tensor:
        session.keep(0)
        found: list[np.ndarray[Any, Any]] = []
        for first in range(0, len(ids), 256):
            part = ids[first : first + 256]
            session.read(part, first, every=True)
            found += [session.logits(row).copy() for row in range(len(part))]
        return torch.from_numpy(np.stack(found))

    return read


# -- speed -----------------------------------------------------------------------------------


class Own:
    """A dtype of Outrider."""

    def __init__(self, model: Path, dtype: str, threads: int) -> None:
        self.decoder = NativeDecoder.load(model, dtype=FORMATS[dtype].dtype, threads=threads)
        self.nbytes = self.decoder.info.weight_bytes or 0
        self.cache: Any = None

    def write(self, prompt: list[int], count: int) -> float:
        """Return tokens per second of greedy writing."""
        [cache] = self.decoder.start([Prompt(token_ids=tuple(prompt))])
        sampler = Sampler(SamplingParams(seed=0))
        begun = time.perf_counter()
        [tokens] = self.decoder.write_chains(
            [ChainRequest(Segment(cache, NO_IDS), sampler, (), count)]
        ) or [NO_IDS]
        return len(tokens) / (time.perf_counter() - begun)

    def forward(self, context: list[int], rows: int) -> float:
        """Return the seconds of one forward after `context`, which is read once."""
        if self.cache is None:
            [self.cache] = self.decoder.start([Prompt(token_ids=tuple(context))])
        taken: list[float] = []
        for _ in range(5):
            begun = time.perf_counter()
            want = [as_ids(range(-1, rows - 1))]
            self.decoder.forward([Segment(self.cache, as_ids(context[1:rows]))], want)
            taken.append(time.perf_counter() - begun)
            self.cache.commit(())
        return median(taken)

    def read(self, ids: list[int]) -> float:
        """Return the seconds of reading a prompt up to its first logits."""
        begun = time.perf_counter()
        [cache] = self.decoder.start([Prompt(token_ids=tuple(ids))])
        self.decoder.forward([Segment(cache, NO_IDS)], [as_ids([-1])])
        return time.perf_counter() - begun


class Theirs:
    """A file in llama.cpp."""

    nbytes = 0

    def __init__(self, session: Session) -> None:
        self.session = session
        self.ready = False  # whether the cache holds the context of `forward`

    def write(self, prompt: list[int], count: int) -> float:
        """Return tokens per second of greedy writing."""
        self.ready = False
        self.session.keep(0)
        self.session.read(prompt[:-1], 0)
        token = prompt[-1]
        with self.session.sampling(0.0, 1.0, 0) as sample:
            begun = time.perf_counter()
            for place in range(len(prompt) - 1, len(prompt) - 1 + count):
                self.session.read([token], place)
                token = sample(-1)
            return count / (time.perf_counter() - begun)

    def forward(self, context: list[int], rows: int) -> float:
        """Return the seconds of one forward after `context`, which is read once."""
        if not self.ready:
            self.session.keep(0)
            self.session.read(context[:-1], 0)
            self.ready = True
        taken: list[float] = []
        for _ in range(5):
            begun = time.perf_counter()
            self.session.read(context[:rows], len(context) - 1, every=True)
            self.session.logits(rows - 1)
            taken.append(time.perf_counter() - begun)
            self.session.keep(len(context) - 1)
        return median(taken)

    def read(self, ids: list[int]) -> float:
        """Return the seconds of reading a prompt up to its first logits."""
        self.ready = False
        self.session.keep(0)
        begun = time.perf_counter()
        self.session.read(ids, 0)
        self.session.logits(-1)
        return time.perf_counter() - begun


def speed(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield one record for each number of threads, system and measure."""
    import llama_cpp  # pyright: ignore[reportMissingImports]

    print(ctypes.string_at(llama_cpp.llama_print_system_info()).decode())
    vocabulary = int(open_checkpoint(args.model).config["vocab_size"])
    ids = [(i * 7919) % vocabulary for i in range(max(args.lengths))]
    for threads in args.threads:
        with ExitStack() as stack:
            systems: dict[str, Own | Theirs] = {
                f"outrider {name}": Own(args.model, name, threads) for name in args.dtypes
            }
            for file in [args.model, *args.files]:
                session = stack.enter_context(open_session(file, threads=threads))
                systems[f"llama.cpp {file.name}"] = Theirs(session)
            measures: dict[str, Callable[[Own | Theirs], float]] = {
                "write": lambda one: one.write(ids[:32], 64),
                **{f"rows {n}": lambda one, n=n: one.forward(ids[:128], n) for n in args.widths},
            }
            for length in args.lengths:
                measures[f"read {length}"] = lambda one, n=length: one.read(ids[:n])
            for measure, run in measures.items():
                taken: dict[str, list[float]] = {name: [] for name in systems}
                for _ in range(max(args.turns // 2, 1) if "read" in measure else args.turns):
                    for name, one in systems.items():
                        taken[name].append(run(one))
                bandwidth = bandwidth_gb_s(threads, torch.device("cpu"))
                for name, one in systems.items():
                    yield {
                        "part": "speed",
                        "threads": threads,
                        "name": name,
                        "measure": measure,
                        "median": median(taken[name]),
                        "runs": taken[name],
                        "bytes": one.nbytes,
                        "bandwidth_gb_s": bandwidth,
                    }


if __name__ == "__main__":
    main()
