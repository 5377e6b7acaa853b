"""Systems side by side on one real model: speed on Spec-Bench prompts, divergence, first token.

    python -m benchmarks.real_models.systems speed FILE --folder FOLDER --prompts question.jsonl.zst
    python -m benchmarks.real_models.systems read FILE --folder FOLDER --lengths 2048 8000
    python -m benchmarks.real_models.systems quality FILE --folder FOLDER --text story.txt

FILE is a GGUF file, FOLDER the same weights in float32 for the systems that read no GGUF. All
systems answer a prompt in turn, in another order each time, with the same number of greedy tokens
and of threads. `quality` compares each system with float32 arithmetic of transformers. Systems that
are not installed are left out by name. `read` times the first token after prompts of random tokens.
`report` prints the tables again.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from benchmarks.real_models.prompts import by_category
from benchmarks.real_weights import _add, _own_reader, _their_reader
from rich.progress import track

from outrider import Generator, load
from outrider.bench.rivals.hugging_face import HUGGING_FACE
from outrider.bench.rivals.llamacpp import OpenLlamaCpp, _no_draft
from outrider.bench.rivals.llamacpp_session import open_session
from outrider.bench.rivals.openvino import OPENVINO, _folder
from outrider.bench.rivals.rival import OpenRival, RivalRequest, RivalText
from outrider.bench.statistics import Ratio
from outrider.models.checkpoints.tokenizer import Tokenizer

Opened = AbstractContextManager[OpenRival]
_WINDOW = 500


class Own:
    """Outrider as one of the systems."""

    def __init__(self, generator: Generator) -> None:
        self.generator = generator

    def generate(self, request: RivalRequest) -> RivalText:
        """See `OpenRival`."""
        start = time.perf_counter()
        result = self.generator.generate(
            list(request.token_ids),
            max_new_tokens=request.max_new_tokens,
            temperature=request.temperature,
            seed=request.seed,
            ignore_eos=request.ignore_eos,
        )
        first, last = result.token_times[0] - start, result.token_times[-1] - start
        return RivalText(result.token_ids, first, last)


@contextmanager
def own(model: Path, **options: Any) -> Iterator[OpenRival]:
    """Open Outrider with these options."""
    yield Own(load(model, **options))


@contextmanager
def llama_cpp(file: Path, threads: int) -> Iterator[OpenRival]:
    """Open a file in llama.cpp."""
    with open_session(file, threads=threads) as session:
        yield OpenLlamaCpp(session, _no_draft, ())


def systems(given: argparse.Namespace) -> dict[str, Callable[[], Opened]]:
    """Return the systems by name, with those of equal precision next to each other."""
    file, folder, threads = given.file, given.folder, given.threads
    plain: dict[str, Any] = {"mode": "none", "threads": threads}
    found: dict[str, Callable[[], Opened]] = {}
    for dtype in ("float32", "bfloat16"):
        found[f"transformers, {dtype}"] = lambda dtype=dtype: HUGGING_FACE[0].open(
            folder, None, threads=threads, dtype=dtype
        )
        found[f"Outrider, {dtype}"] = lambda dtype=dtype: own(folder, dtype=dtype, **plain)
    if OPENVINO[0].available() is None:
        found["OpenVINO GenAI, int8"] = lambda: OPENVINO[0].open(
            folder, None, threads=threads, dtype=""
        )
    for other in (*given.files, file):
        name = other.stem.rsplit(".", 1)[-1].removeprefix("smol-")
        found[f"llama.cpp, {name}"] = lambda other=other: llama_cpp(other, threads)
    found["Outrider, int8"] = lambda: own(folder, dtype="int8", **plain)
    found["Outrider, the file, undrafted"] = lambda: own(file, **plain)
    found["Outrider, the file, defaults"] = lambda: own(file, threads=threads)
    if given.only:
        found = {name: one for name, one in found.items() if name in given.only}
    return found


def speed(given: argparse.Namespace) -> None:
    """Answer the prompts with all systems."""
    codec = Tokenizer.load(given.folder)
    prompts = by_category(given.prompts, given.of_each, given.characters)
    with ExitStack() as stack:
        opened = {name: stack.enter_context(one()) for name, one in systems(given).items()}
        names = list(opened)
        for place, (category, text) in enumerate(track(prompts)):
            ids = list(codec.chat([{"role": "user", "content": text}]))
            request = RivalRequest(
                token_ids=ids,
                max_new_tokens=given.max_new_tokens,
                temperature=0.0,
                top_p=1.0,
                seed=0,
                ignore_eos=True,
            )
            for name in names[place % len(names) :] + names[: place % len(names)]:
                written = opened[name].generate(request)
                writing = written.seconds - written.ttft_seconds
                line = {
                    "name": name,
                    "prompt": place,
                    "category": category,
                    "prompt_tokens": len(ids),
                    "threads": given.threads,
                    "first": written.ttft_seconds,
                    "speed": (len(written.token_ids) - 1) / writing,
                    "seconds": written.seconds,
                    "load": os.getloadavg()[0],
                }
                with given.out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")


def reading(given: argparse.Namespace) -> None:
    """Print the seconds to the first token after long prompts, the median of `--turns` turns."""
    size = Tokenizer.load(given.folder).vocab_size
    with ExitStack() as stack:
        chosen = {
            name: one
            for name, one in systems(given).items()
            if not name.startswith("transformers") and name != "Outrider, the file, defaults"
        }
        opened = {name: stack.enter_context(one()) for name, one in chosen.items()}
        for length in given.lengths:
            taken: dict[str, list[float]] = {name: [] for name in opened}
            for turn in range(given.turns):
                ids = [(i * 7919 + turn) % size for i in range(length)]
                request = RivalRequest(
                    token_ids=ids,
                    max_new_tokens=2,
                    temperature=0.0,
                    top_p=1.0,
                    seed=0,
                    ignore_eos=True,
                )
                for name, one in opened.items():
                    taken[name].append(one.generate(request).ttft_seconds)
                    print(f"{length} tokens, {name}: {taken[name][-1]:.2f} s", flush=True)
            base = median(taken[given.base])
            for name, times in taken.items():
                print(
                    f"| {length} | {name} | {median(times):.2f} | {median(times) / base:.2f} | "
                    f"load {os.getloadavg()[0]:.1f} |",
                    flush=True,
                )


def report(given: argparse.Namespace) -> None:
    """Print the table: speeds, ratios to the row of `--base`, first tokens, by category too."""
    lines = [json.loads(line) for line in given.out.read_text(encoding="utf-8").splitlines()]
    for threads in sorted({line["threads"] for line in lines}):
        rows = [line for line in lines if line["threads"] == threads]
        base = {row["prompt"]: row for row in rows if row["name"] == given.base}
        loads = sorted(row["load"] for row in rows)
        print(f"\n{threads} threads, load average {loads[0]:.1f} to {loads[-1]:.1f}\n")
        print(
            f"| | tokens/s | over {given.base} | first token, s | whole, s |\n|---|---|---|---|---|"
        )
        for name in dict.fromkeys(row["name"] for row in rows):
            mine = [row for row in rows if row["name"] == name and row["prompt"] in base]
            ratio = Ratio.of([row["speed"] / base[row["prompt"]]["speed"] for row in mine])
            assert ratio is not None
            middle = {
                key: median(row[key] for row in mine) for key in ("speed", "first", "seconds")
            }
            print(
                f"| {name} | {middle['speed']:.1f} | {ratio.mean:.2f} [{ratio.low:.2f}, "
                f"{ratio.high:.2f}] | {middle['first']:.2f} | {middle['seconds']:.2f} |"
            )
        by_categories(rows, base)


def by_categories(rows: list[dict[str, Any]], base: dict[int, dict[str, Any]]) -> None:
    """Print the ratios of all systems to the base in each category."""
    categories = list(dict.fromkeys(row["category"] for row in rows))
    names = list(dict.fromkeys(row["name"] for row in rows))
    print(f"\n| | {' | '.join(categories)} |\n|---|{'---|' * len(categories)}")
    for name in names:
        cells: list[str] = []
        for category in categories:
            ratio = Ratio.of(
                [
                    row["speed"] / base[row["prompt"]]["speed"]
                    for row in rows
                    if (row["name"], row["category"]) == (name, category) and row["prompt"] in base
                ]
            )
            low_high = "" if ratio is None else f" [{ratio.low:.2f}, {ratio.high:.2f}]"
            cells.append("" if ratio is None else f"{ratio.mean:.2f}{low_high}")
        print(f"| {name} | {' | '.join(cells)} |")


def quality(given: argparse.Namespace) -> None:
    """Print the divergence of each system from float32 arithmetic of transformers."""
    codec = Tokenizer.load(given.folder)
    ids = list(codec.encode(given.text.read_text(encoding="utf-8")))[: given.positions + 1]
    windows = [ids[i : i + _WINDOW + 1] for i in range(0, len(ids) - 1, _WINDOW)]
    exact = _transformers_reader(given.folder, torch.float32)
    with ExitStack() as stack:
        readers = {
            "transformers, bfloat16": _transformers_reader(given.folder, torch.bfloat16),
            "Outrider, float32": _own_reader(given.folder, "float32"),
            "Outrider, bfloat16": _own_reader(given.folder, "bfloat16"),
            "Outrider, int8": _own_reader(given.folder, "int8"),
            "Outrider, the file": _own_reader(given.file, "stored"),
        }
        for other in (*given.files, given.file):
            session = stack.enter_context(open_session(other, threads=2, half_cache=False))
            readers[f"llama.cpp, {other.name}"] = _their_reader(session)
        if OPENVINO[0].available() is None:
            readers["OpenVINO, int8"] = _openvino_reader(given.folder)
        sums = {name: np.zeros(4) for name in readers}
        for window in track(windows):
            reference = exact(window[:-1]).log_softmax(-1)
            for name, read in readers.items():
                _add(sums[name], reference, read(window[:-1]).log_softmax(-1), window)
    for name, (kl, same, loss, count) in sums.items():
        print(f"{name}: KL {kl / count:.5f}, same best {same / count:.1%}, loss {loss / count:.4f}")


def _transformers_reader(folder: Path, dtype: torch.dtype) -> Callable[[list[int]], torch.Tensor]:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, trust_remote_code=False)

    @torch.inference_mode()
    def read(ids: list[int]) -> torch.Tensor:
        return model(torch.tensor([ids])).logits[0].float()

    return read


def _openvino_reader(folder: Path) -> Callable[[list[int]], torch.Tensor]:
    import openvino  # pyright: ignore[reportMissingImports]

    compiled = openvino.Core().compile_model(f"{_folder(folder)}/openvino_model.xml", "CPU")
    request = compiled.create_infer_request()

    def read(ids: list[int]) -> torch.Tensor:
        request.reset_state()
        size = len(ids)
        found = request.infer(
            {
                "input_ids": np.asarray([ids], dtype=np.int64),
                "attention_mask": np.ones((1, size), dtype=np.int64),
                "position_ids": np.arange(size, dtype=np.int64)[None],
                "beam_idx": np.zeros(1, dtype=np.int32),
            }
        )
        return torch.from_numpy(np.array(next(iter(found.values()))[0])).float()

    return read


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("part", choices=("speed", "read", "quality", "report"))
    parser.add_argument("file", type=Path, nargs="?")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--files", type=Path, nargs="*", default=[], help="more files of llama.cpp")
    parser.add_argument("--prompts", type=Path)
    parser.add_argument("--text", type=Path)
    parser.add_argument("--positions", type=int, default=2000)
    parser.add_argument("--of-each", type=int, default=4)
    parser.add_argument("--characters", type=int, default=2000)
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--lengths", type=int, nargs="+", default=[128, 512, 2048, 8000])
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=[], help="names of the systems to measure")
    parser.add_argument("--base", default="Outrider, the file, undrafted")
    parser.add_argument("--out", type=Path, default=Path("runs/systems.jsonl"))
    given = parser.parse_args()
    given.out.parent.mkdir(parents=True, exist_ok=True)
    if given.part == "quality":
        quality(given)
        return
    if given.part == "read":
        reading(given)
        return
    if given.part == "speed":
        speed(given)
    report(given)


if __name__ == "__main__":
    main()
