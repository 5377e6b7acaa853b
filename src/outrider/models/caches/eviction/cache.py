"""A cache under a policy: at points of the text it keeps other rows for each layer and head.

The bookkeeping of tokens, drafts and commits is that of every cache. Dropped rows stay in the text:
they count as read, and positions do not change. A row that the text has and a plane has dropped can
not be read again, so a text that is cut before the last point is read anew.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from outrider.core.tree import depths
from outrider.core.types import NO_IDS, IntArray, as_ids
from outrider.models.caches.bookkeeping import Feed, Run
from outrider.models.caches.eviction.planes import Planes, whole_planes
from outrider.models.caches.eviction.policy import Choice, KvPolicy, Shape
from outrider.models.caches.eviction.queries import QueryLog
from outrider.models.caches.eviction.sizes import SPARE
from outrider.models.caches.eviction.storage import CompressedStorage
from outrider.models.caches.kv_cache import Asked, CacheLayout, DecoderCache, Storage
from outrider.protocols import CacheReport, Segment

Angles = Callable[[Tensor, torch.dtype], tuple[Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Compression:
    """A policy for one model.

    Attributes:
        policy: the policy.
        shape: the shape of the caches of the model.
        angles: cosines and signed sines `[n, head_dim]` of differences of positions `[n]`, as the
            rotary embedding of layers that read all rows turns keys.
    """

    policy: KvPolicy
    shape: Shape
    angles: Angles


class CompressedCache(DecoderCache):
    """A cache under a policy of `eviction/`."""

    planes = whole_planes(0)

    def __init__(
        self, layout: CacheLayout, compression: Compression, storage: Storage | None = None
    ) -> None:
        super().__init__(layout, storage)
        self.compression = compression
        self.prompt = 0
        self._begin()

    def _begin(self) -> None:
        """Begin as a cache without rows."""
        policy, shape = self.compression.policy, self.compression.shape
        self.planes = whole_planes(shape.planes)
        self._eviction = policy.begin(shape)
        self._log = QueryLog()
        self._archive: Storage | None = None
        self._archived = self._last = 0
        self.asked = None
        self._next = self._point(0)

    # -- points -----------------------------------------------------------------------------

    def _point(self, rows: int) -> int | None:
        """Return the first point after `rows` rows; None if there is none."""
        policy, prompt = self.compression.policy, self.prompt
        if not any(self.compression.shape.reads_all):  # no layer has rows to drop
            return None
        if policy.reads_texts:
            return (rows // policy.every + 1) * policy.every
        if rows < prompt:
            chunk = policy.chunk or prompt
            return min((rows // chunk + 1) * chunk, prompt)
        if not policy.every:
            return None
        return prompt + ((rows - prompt) // policy.every + 1) * policy.every

    @property
    def horizon(self) -> int | None:
        """Number of generated tokens until the next point."""
        point = self._point(len(self._text) - 1)
        return None if point is None else point + 1 - len(self._text)

    def expect(self, slots: int) -> None:
        """Note the length of a prompt, whose last token is read with the first round. Space is
        allocated at once unless the prompt is compressed while it is read."""
        if not self._length and not self.compression.policy.reads_texts:
            self.prompt = slots
            self._next = self._point(0)
        if not self.compression.policy.chunk:
            super().expect(slots)

    # -- reading ----------------------------------------------------------------------------

    def feed(self, segment: Segment, want: IntArray) -> Feed:
        """Plan a forward over `segment`, and which queries it writes."""
        old = len(self._tokens)
        plan = super().feed(segment, want)
        self._ask(plan, old)
        return plan

    def part(self) -> Feed | None:
        """Return pending rows that must be read in a forward of their own, up to the next point;
        None if the other rows can be read together."""
        start, point, end = self._length, self._next, len(self._text) - 1
        if self._fed or point is None or end < point:
            return None
        embeddings = self.embeddings
        plan = Feed(
            tokens=as_ids(self._text[start:point]),
            positions=self.places.between(start, point),
            start=start,
            base=start,
            tree=None,
            take=NO_IDS,
            embeddings=None if embeddings is None else embeddings[: point - start],
            axes=self.places.spread(start, point),
        )
        self._check_position(int(plan.positions.max()))
        self._ask(plan, 0)
        return plan

    def advance(self) -> None:
        """Take note that the rows of `part` have been read."""
        assert self._next is not None
        if self.embeddings is not None:
            self.embeddings = self.embeddings[self._next - self._length :]
        self._length = self._next
        self._reach()

    def _ask(self, plan: Feed, old: int) -> None:
        """Choose the rows of a feed whose queries are kept; `old` counts speculative rows."""
        self.asked = None
        if self._next is None:  # nothing will read them
            return
        drafted = plan.start + len(plan.tokens) - len(self._text)
        unread = len(plan.tokens) - max(drafted - old, 0)
        rows = np.arange(plan.start, plan.start + len(plan.tokens))
        if drafted > old:  # a drafted row belongs to the place behind its ancestors
            rows[unread:] = len(self._text) + depths(as_ids(self._parents))[old:]
        wanted = self._eviction.asks(rows, self.prompt)
        if wanted is None or not wanted.any():
            return
        shape, taken = self.compression.shape, np.flatnonzero(wanted)
        size = (len(taken), shape.num_layers, shape.num_heads, shape.head_dim)
        wide = torch.promote_types(self.layout.dtype, torch.float32)
        # Zeros, since a model made of some layers writes the queries of these layers only.
        self.asked = Asked(taken, torch.zeros(size, dtype=wide, device=self.layout.device))
        names = np.concatenate((rows[:unread], np.arange(old, old + len(rows) - unread)))
        self._log.note(self.asked, names[taken], int((taken < unread).sum()))

    def unasked(self, drafted: int) -> None:
        """Take note that rows from speculative row `drafted` on were planned but read elsewhere."""
        self.asked = None
        self._log.forget_last(drafted)

    # -- changes ----------------------------------------------------------------------------

    def commit(self, tokens: Sequence[int] | IntArray) -> None:
        """Append emitted tokens; compress the cache if they reach a point."""
        if self._log.drafted:
            self._log.commit(self.match_prefix(tokens), len(self._text))
        super().commit(tokens)
        self._log.cut(self._length)
        self._reach()

    def keep_rows(self, rows: Sequence[int]) -> None:
        """Drop all speculative rows but `rows`, ascending, whose parents must be among them."""
        super().keep_rows(rows)
        self._log.keep_drafted(rows)

    def settle(self) -> None:
        """Count all tokens as read; compress the cache if they reach a point."""
        super().settle()
        self._reach()

    def _keep(self, length: int, rows: int) -> None:
        if rows < self._last:  # rows that a fresh reading would have at this place may be gone
            self._restart()
            rows = 0
        super()._keep(length, rows)
        self._log.cut(rows)
        self._next = self._point(rows)

    def renew(self, version: int) -> None:
        """Read the text again, unless that is impossible (see `CacheBook.renew`)."""
        if not self._fed and self.sound is None:
            self._restart()
        super().renew(version)

    def _restart(self) -> None:
        self.storage.readers.discard(self)
        if self._archive is not None:
            self._archive.readers.discard(self)
        self.planes = whole_planes(self.compression.shape.planes)
        self.storage = self._make(self.layout, 0)
        self.storage.readers.add(self)
        self._begin()

    def usable(self, shared: int) -> int:
        """Return how many tokens of a text that begins alike need not be read again."""
        if not self.compression.policy.reads_texts or shared - 1 < self._last:
            return 0
        return super().usable(shared)

    def check_own(self) -> None:
        """Refused: rows that are gone cannot be rearranged."""
        raise RuntimeError("a compressed cache cannot be rearranged; read the text again")

    def fork(self) -> "CompressedCache":
        """Return an independent copy that shares storage until one side writes."""
        twin = super().fork()
        twin.prompt, twin._next, twin._last = self.prompt, self._next, self._last
        twin._eviction, twin._log = self._eviction.copy(), self._log.copy()
        twin._archive, twin._archived = self._archive, self._archived
        if self._archive is not None:
            self._archive.readers.add(twin)
        return twin

    def _share(self) -> "CompressedCache":
        twin = type(self)(self.layout, self.compression, self.storage)
        twin.planes = self.planes
        return twin

    # -- compression ------------------------------------------------------------------------

    def _reach(self) -> None:
        if self._next is not None and self._length >= self._next:
            self._compress()

    @torch.inference_mode()
    def _compress(self) -> None:
        """Keep what the policy chooses."""
        self._store()
        choice = self._eviction.choose(CacheView(self))
        if choice is not None:
            self._rebuild(choice)
        self._log, self._last = QueryLog(), self._length
        self._next = self._point(self._length)

    def _store(self) -> None:
        """Add rows to the archive that it is to have."""
        rows = self.compression.policy.archived(self._length)
        if rows <= self._archived:
            return
        old, archive = self._archive, self._archive
        if archive is None or archive.capacity < rows or len(archive.readers) > 1:
            layout = replace(self.layout, kept=(), hidden=0)
            grown = 0 if old is None else old.capacity + old.capacity // 4
            archive = super()._make(layout, max(rows, grown))
            if old is not None:
                archive.copy_rows(old, self._archived)
                old.readers.discard(self)
            archive.readers.add(self)
            self._archive = archive
        new = np.arange(self._archived, rows)
        planes = range(self.compression.shape.planes)
        slots = [self.planes.slots(plane, new) for plane in planes]
        archive.gather(self.storage, [self._archived] * len(planes), slots)
        self._archived = rows

    def _rebuild(self, choice: Choice) -> None:
        """Move to storage that holds the chosen rows."""
        old, before = self.storage, self.planes
        self.planes = Planes(tuple(choice.rows), self._length)
        storage = self._make(self.layout, self._length + SPARE)
        counts = [int(np.searchsorted(rows, self._archived)) for rows in choice.rows]
        if self._archive is not None:
            taken = [rows[:n] for rows, n in zip(choice.rows, counts, strict=True)]
            storage.gather(self._archive, [0] * len(counts), taken)
        rest = [
            before.slots(plane, rows[n:])
            for plane, (rows, n) in enumerate(zip(choice.rows, counts, strict=True))
        ]
        storage.gather(old, counts, rest)
        storage.keep_states(0, old.states[: self._length])
        self._turn(storage, choice)
        self.storage = storage
        storage.readers.add(self)
        old.readers.discard(self)

    def _turn(self, storage: Storage, choice: Choice) -> None:
        """Move keys to other positions."""
        if not any(map(len, choice.turns)):
            return
        known: dict[bytes, tuple[Tensor, Tensor]] = {}  # heads of a layer often move alike
        shape = self.compression.shape
        for plane, turns in enumerate(choice.turns):
            if not len(turns) or not shape.rotary[plane // shape.num_kv_heads]:
                continue
            wide = torch.float64 if self.layout.dtype == torch.float64 else torch.float32
            mark = turns.tobytes()
            if mark not in known:
                moved = torch.from_numpy(turns).to(self.layout.device)
                known[mark] = self.compression.angles(moved, wide)
            storage.turn(plane, *known[mark])

    def _make(self, layout: CacheLayout, capacity: int) -> Storage:
        if not self.planes.end:
            return super()._make(layout, capacity)
        return CompressedStorage(layout, self.planes, capacity)

    def _renew(self, start: int, end: int) -> None:
        """Move to exclusive storage; behind kept rows it grows by few rows at a time, or by a
        quarter of what the largest plane holds where no point follows soon."""
        if not self.planes.end:
            super()._renew(start, end)
            return
        capacity = self.storage.capacity
        kept = [Run(0, min(start, capacity), 0)]
        if end > capacity:
            spare = (end + int(self.planes.shift.max())) // 4
            soon = spare if self._next is None else min(spare, self._next - end)
            capacity = end + max(soon, SPARE)
        self._exchange(kept, capacity)

    # -- figures ----------------------------------------------------------------------------

    @property
    def report(self) -> CacheReport:  # pyright: ignore[reportIncompatibleVariableOverride]
        """How the text was read, with the policy and the bytes that the cache takes now."""
        self._report.kv_policy = str(self.compression.policy)
        self._report.kv_bytes = self.nbytes
        return self._report

    @report.setter
    def report(self, found: CacheReport) -> None:
        self._report = found

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values, of the archive, and of what the policy notes, the queries
        since the last point included."""
        archive = 0 if self._archive is None else self._archive.nbytes
        return self.storage.nbytes + archive + self._eviction.nbytes + self._log.nbytes


class CacheView:
    """What a policy reads of a cache; see `policy.View`."""

    def __init__(self, cache: CompressedCache) -> None:
        self._cache = cache
        self.shape = cache.compression.shape
        self.rows, self.prompt = cache.length, cache.prompt
        self.asked = cache._log.rows

    def kept(self, plane: int) -> IntArray:
        """Return the rows that a plane holds, ascending."""
        return self._cache.planes.holds(plane, self.rows)

    def keys(self, layer: int) -> list[Float[Tensor, "kept head_dim"]]:
        """Return the keys of the rows that each head holds."""
        return [
            self._cache.storage.float_keys(plane, len(self.kept(plane)))
            for plane in self.shape.of_layer(layer)
        ]

    def stored_keys(self, layer: int, rows: IntArray) -> Float[Tensor, "kv_heads rows head_dim"]:
        """Return keys as they were read, of the archive as far as it holds them."""
        archive, stored = self._cache._archive, self._cache._archived
        early = int(np.searchsorted(rows, stored))
        out: list[Tensor] = []
        for plane in self.shape.of_layer(layer):
            parts: list[Tensor] = []
            if early:
                assert archive is not None
                parts.append(archive.float_keys(plane, stored)[torch.from_numpy(rows[:early])])
            if early < len(rows):
                slots = self._cache.planes.slots(plane, rows[early:])
                held = self._cache.storage.float_keys(plane, int(slots.max()) + 1)
                parts.append(held[torch.from_numpy(slots)])
            out.append(torch.cat(parts))
        return torch.stack(out)

    def turned(
        self, layer: int, keys: Float[Tensor, "kv_heads rows head_dim"], turns: IntArray
    ) -> Float[Tensor, "kv_heads rows head_dim"]:
        """Return keys of a layer as if their rows were `turns` positions further on."""
        if not self.shape.rotary[layer]:
            return keys
        moved = torch.from_numpy(turns).to(keys.device)
        cos, sin = self._cache.compression.angles(moved, keys.dtype)
        return keys * cos + keys.roll(keys.shape[-1] // 2, dims=-1) * sin

    def queries(self, layer: int) -> Float[Tensor, "asked heads head_dim"]:
        """Return the queries of `asked`."""
        shape = self.shape
        size = (0, shape.num_layers, shape.num_heads, shape.head_dim)
        empty = torch.empty(size, device=self._cache.layout.device)
        return self._cache._log.of_layer(layer, empty)
