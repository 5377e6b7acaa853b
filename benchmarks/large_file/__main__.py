"""A large GGUF file in Outrider and in llama.cpp: load time, peak memory and tokens per second.

    python -m benchmarks.large_file FILE --out runs/large_file --threads 2

FILE is written by `random_gguf.py` if it does not exist, in the shape that the options give
(Llama-2-7B without options; a Llama-3 of 8 key-value heads with `--kv-heads 8 --inner 14336`), and
deleted at the end if `--delete` is given. Each system loads it in fresh processes, in turn: once
after the file has left the page cache, if the system allows that, and then from the page cache.
Peaks are those of the whole process (`VmHWM`), with Python and PyTorch.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.large_file.random_gguf import add_shape, shape_of, write_random

_PROMPT = [1 + i * 7919 % 3000 for i in range(16)]
_SYSTEMS = ("outrider", "llama.cpp")


def main() -> None:
    """Write the file, run all processes, and print one record for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/large_file"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--dtype", default="auto", help="of Outrider")
    parser.add_argument("--cache-dtype", default="auto", help="of Outrider")
    parser.add_argument("--systems", nargs="*", choices=_SYSTEMS, default=_SYSTEMS)
    parser.add_argument("--delete", action="store_true", help="delete the file at the end")
    parser.add_argument("--child", choices=_SYSTEMS, help=argparse.SUPPRESS)
    add_shape(parser)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(_CHILDREN[args.child](args)))
        return
    args.out.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        if args.delete:
            stack.callback(args.file.unlink, missing_ok=True)
        if not args.file.exists():
            begun = time.perf_counter()
            write_random(args.file, shape_of(args))
            print(f"written in {time.perf_counter() - begun:.0f} s", flush=True)
        log = stack.enter_context((args.out / "large_file.jsonl").open("a"))
        for record in measured(args):
            log.write(json.dumps(record) + "\n")
            log.flush()
            print(json.dumps(record), flush=True)


def measured(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield one record for each process, then the medians of each system."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in args.systems}
    for turn in range(args.turns):
        for name in args.systems:
            cold = turn == 0 and _leave_cache(args.file)
            before = os.getloadavg()[0]
            record = _in_process(name, args) | {"system": name, "turn": turn, "cold": cold}
            record |= {"load_before": before, "load_after": os.getloadavg()[0]}
            found[name].append(record)
            yield record
    for name, records in found.items():
        yield summary(name, records, args.file.stat().st_size)


def summary(name: str, records: list[dict[str, Any]], size: int) -> dict[str, Any]:
    """Return the medians of one system; times of loading are those from the page cache."""
    warm = [record for record in records if not record["cold"]] or records
    loads = [record["load_s"] for record in warm]
    return {
        "system": name,
        "file_bytes": size,
        "load_s": median(loads),
        "load_mb_s": size / median(loads) / 1e6,
        "first_token_s": median(record["first_token_s"] for record in warm),
        "cold_load_s": [record["load_s"] for record in records if record["cold"]],
        "peak_of_file": max(record["peak_bytes"] for record in records) / size,
        "tokens_s": median(t for record in records for t in record["tokens_s"]),
    }


def _in_process(name: str, args: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.large_file", str(args.file), "--child", name]
    command += ["--threads", str(args.threads), "--tokens", str(args.tokens)]
    command += ["--dtype", args.dtype, "--cache-dtype", args.cache_dtype]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _leave_cache(file: Path) -> bool:
    """Ask the system to drop the file from the page cache; return whether it can be asked."""
    with suppress(AttributeError, OSError), file.open("rb") as stream:
        os.fsync(stream.fileno())
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return True
    return False


# -- one process -----------------------------------------------------------------------------


def memory() -> dict[str, int]:
    """Return the bytes of this process: the peak, and what is resident now, by its kind."""
    names = {"VmHWM": "peak_bytes", "RssAnon": "anonymous", "RssFile": "file", "RssShmem": "shared"}
    found: dict[str, int] = {}
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        key, _, value = line.partition(":")
        if key in names:
            found[names[key]] = int(value.split()[0]) * 1024
    return found


def _outrider(args: argparse.Namespace) -> dict[str, Any]:
    """Load as a user does, with the tokenizer and the choice of a dtype, and write."""
    import transformers

    import outrider

    assert transformers.PreTrainedTokenizerFast and outrider.load  # import all that loading needs
    imported = memory()["peak_bytes"]
    begun, spent = time.perf_counter(), time.process_time()
    generator = outrider.load(
        args.file,
        mode="none",
        device="cpu",
        threads=args.threads,
        dtype=args.dtype,
        cache_dtype=args.cache_dtype,
    )
    loaded, spent = time.perf_counter(), time.process_time() - spent
    options: dict[str, Any] = {"temperature": 0.0, "ignore_eos": True}
    generator.generate(_PROMPT, max_new_tokens=1, **options)
    first = time.perf_counter()
    taken: list[float] = []
    for _ in range(3):
        started = time.perf_counter()
        stream = generator.stream(_PROMPT, max_new_tokens=args.tokens, **options)
        times = [time.perf_counter() for _ in stream]
        assert stream.result is not None and started < times[0]
        count = len(stream.result.token_ids)
        taken.append((count - 1) / (time.perf_counter() - times[0]))
    return {
        "load_s": loaded - begun,
        "load_cpu_s": spent,
        "first_token_s": first - begun,
        "tokens_s": taken,
        "imports_bytes": imported,
        "weights": generator.strategy.target.info.weights,
        **memory(),
    }


def _llama_cpp(args: argparse.Namespace) -> dict[str, Any]:
    from outrider.bench.rivals.llamacpp_session import open_session

    imported = memory()["peak_bytes"]
    begun = time.perf_counter()
    with open_session(args.file, threads=args.threads, flash=True) as session:
        loaded = time.perf_counter()
        session.read(_PROMPT, 0)
        session.logits(-1)
        first = time.perf_counter()
        taken: list[float] = []
        for _ in range(3):
            session.keep(0)
            session.read(_PROMPT, 0)
            with session.sampling(0.0, 1.0, 0) as sample:
                token = sample(-1)
                started = time.perf_counter()
                for place in range(len(_PROMPT), len(_PROMPT) + args.tokens - 1):
                    session.read([token], place)
                    token = sample(-1)
                taken.append((args.tokens - 1) / (time.perf_counter() - started))
        found = memory()
    return {
        "load_s": loaded - begun,
        "first_token_s": first - begun,
        "tokens_s": taken,
        "imports_bytes": imported,
        **found,
    }


_CHILDREN = {"outrider": _outrider, "llama.cpp": _llama_cpp}


if __name__ == "__main__":
    main()
