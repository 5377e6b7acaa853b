"""The long documents of the selection benchmarks, from 8k to 32k tokens."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.long_inputs.inputs.known_tasks import case_of, turned_keys, without_lines
from benchmarks.long_inputs.inputs.needs import Case
from benchmarks.long_inputs.inputs.planted import REACH, about, cases
from benchmarks.long_inputs.inputs.texts import Library, read_lines

FOLDER = "eval_longctx_pd"
FILES = ("w08000", "w16000")
"""12k to 15k, and 25k to 29k tokens of the tiny family."""
SHARES = {"w08000": ((0.68, 6), (1.0, 4)), "w16000": ((0.62, 2), (1.0, 2))}
"""Own documents: how much of a haystack, and how many of them for each haystack."""
TOKENS = range(8_000, 32_769)


def known_cases(
    data: Path, per_task: int | None = None, files: Sequence[str] = FILES
) -> Iterator[Case]:
    """The tasks of the set, and multi-key needles where the writing turns to another key."""
    for file in files:
        count: dict[str, int] = {}
        for item in read_lines(data / FOLDER / f"{file}.jsonl.zst"):
            task = item["task"]
            count[task] = count.get(task, 0) + 1
            if per_task is not None and count[task] > per_task:
                continue
            yield case_of(item)
            if task == "niah_multikey":
                turned = turned_keys(item, lambda name: about(name, REACH))
                if turned is not None:
                    yield turned


def own_cases(
    data: Path, per_haystack: int | None = None, files: Sequence[str] = FILES
) -> Iterator[Case]:
    """Invented facts in the same haystacks."""
    seed = 0
    for file in files:
        items = read_lines(data / FOLDER / f"{file}.jsonl.zst")
        haystacks = [without_lines(i["context"]) for i in items if i["task"] == "niah_single"]
        for share, copies in SHARES[file]:
            for number, haystack in enumerate(haystacks):
                end = haystack.find("\n\n", int(share * len(haystack)) - 200)
                part = haystack[: end if end >= 0 and share < 1 else len(haystack)]
                for copy in range(copies):
                    seed += 1
                    if per_haystack is None or copy < per_haystack:
                        yield from cases(f"own-{file}-{share}-{number}-{copy}", part, seed)


def check_lengths(cases: Sequence[Case], library: Library) -> dict[str, int]:
    """Tokens of each document. Raises `SystemExit` for one outside `TOKENS`."""
    texts = {case.document: case.text for case in cases}
    lengths = {name: len(library.ids(text)) for name, text in texts.items()}
    for name, length in lengths.items():
        if length not in TOKENS:
            raise SystemExit(f"{name} has {length} tokens, not {TOKENS.start} to {TOKENS.stop - 1}")
    return lengths
