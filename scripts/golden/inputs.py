"""Long inputs and captions."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scripts.golden.calls import WORK, Case, call, lines_of, written


def long_inputs() -> Iterator[tuple[str, Case]]:
    """Selections of a long input."""
    story = WORK / "story.txt"
    small = ["--chunk-size", "48", "--keep-ratio", "0.5", "--seed", "2", "--json"]
    small += ["--max-new-tokens", "40", "--encoder", "embeddings", "--refresh", "8"]
    fixed = ["--num-speculative-tokens", "4", "--num-qualified-tokens", "8"]

    def case(*more: object) -> Case:
        return lambda: call("summarize", story, *small, *fixed, *more)

    for selector in ("apce", "static", "cosine", "bm25", "first", "ends", "random"):
        yield f"summarize {selector}", case("--selector", selector)
    for recompute in ("suffix", "new_only", "partial"):
        for positions in ("original", "compact"):
            words = ["--recompute", recompute, "--positions", positions]
            yield f"summarize {recompute} {positions}", case(*words)
    yield "summarize float64", case("--dtype", "float64", "--mode", "none")
    yield "summarize drafters", case("--context-on", "drafters")
    yield "summarize each", lambda: call("summarize", WORK / "docs", "--each", *small, *fixed)
    yield (
        "summarize dense",
        lambda: call("summarize", story, "--max-new-tokens", "12", "--json", *fixed),
    )
    yield "summarize instruction", case("--instruction", "What are the birds called?", "--chat")
    yield "summarize explain", lambda: explained(story, small + fixed)
    yield (
        "generate context",
        lambda: call("generate", "Who saw birds?", "--context", WORK / "docs", *small, *fixed),
    )


def explained(story: Path, options: list[str]) -> Any:
    """A selection with `--explain`: names and contents of the files."""
    folder = WORK / "why"
    shutil.rmtree(folder, ignore_errors=True)
    found = call("summarize", story, *options, "--explain", folder)
    files = sorted(folder.rglob("*"))
    texts = {f.name: lines_of(f.read_text()) for f in files if f.suffix in (".html", ".json")}
    return found | {"files": [f.name for f in files], "texts": texts}


def captions() -> Iterator[tuple[str, Case]]:
    """Captions by drafter and dtype."""
    common = ["caption", WORK / "a.png", WORK / "b.png", "--target", "tiny-vision", "--json"]
    common += ["--max-new-tokens", "24"]

    def case(*more: object) -> Case:
        return lambda: call(*common, *more)

    warm = ["--temperature", "0.8", "--seed", "4"]
    for name in ("none", "lookup", "recycling", "model"):
        for dtype in ("int8", "float32"):
            size = "--num-draft-nodes" if name == "recycling" else "--num-speculative-tokens"
            fixed = [] if name == "none" else [size, "4"]
            yield f"caption {name} {dtype}", case("--drafter", name, "--dtype", dtype, *fixed)
    yield "caption sampled", case("--num-speculative-tokens", "4", *warm)
    yield "caption auto", lambda: written(case()())
    yield (
        "caption tree",
        case("--drafter", "model", "--tree", "eagle2", "--num-draft-nodes", "8", *warm),
    )
    yield "caption guided", case("--guidance", "1.5", "--num-speculative-tokens", "3", *warm)
    yield (
        "caption question",
        lambda: written(case("--question", "What colour is it?", "--batch-size", "1")()),
    )
    yield "caption text", lambda: call(*[w for w in common if w != "--json"])["out"]
