"""Rivals made of our own engine, so that what they write is known."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

import outrider
from outrider.bench.rivals.rival import RivalRequest, RivalText
from outrider.core.errors import CheckpointError


@dataclass
class OwnEngine:
    """Undrafted decoding, or with `spoil` the same with one token changed."""

    name: str = "own"
    precision: str = "float32"
    method: str = "plain"
    spoil: int | None = None
    install: str | None = None
    refuses: bool = False
    fails_at: int | None = None
    opened: list[tuple[Path, Path | None, int, str]] = field(default_factory=list)
    closed: int = 0

    def available(self) -> str | None:
        return self.install

    @contextmanager
    def open(
        self, target: Path, draft: Path | None, *, threads: int, dtype: str
    ) -> Iterator["OpenEngine"]:
        if self.refuses:
            raise CheckpointError("own cannot run this")
        self.opened.append((target, draft, threads, dtype))
        generator = outrider.load(target, mode="none", dtype="float32", threads=1)
        yield OpenEngine(generator, self.spoil, self.fails_at)
        self.closed += 1


@dataclass
class OpenEngine:
    generator: outrider.Generator
    spoil: int | None
    fails_at: int | None
    calls: int = 0

    def generate(self, request: RivalRequest) -> RivalText:
        self.calls += 1
        if self.calls == self.fails_at:
            raise RuntimeError("out of everything")
        begun = perf_counter()
        self.generator.reset()
        result = self.generator.generate(
            list(request.token_ids),
            max_new_tokens=request.max_new_tokens,
            temperature=request.temperature,
            top_p=request.top_p,
            seed=request.seed,
            ignore_eos=request.ignore_eos,
        )
        ids = list(result.token_ids)
        if self.spoil is not None and len(ids) > self.spoil:
            ids[self.spoil] = (ids[self.spoil] + 1) % 1000
        first = result.token_times[0] - begun
        return RivalText(tuple(ids), first, perf_counter() - begun)
