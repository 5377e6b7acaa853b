"""Runs a head over whole texts as decoding does: each step on the outputs of the step before.

A chain that starts at row t drafts in step s the token of place t + s + 2. Its query sees the keys
of the first step up to row t, which are made from true states, and one key of its own for each
later step (training-time test, Li et al. 2025, arXiv 2503.01840).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from outrider.models.heads.clover.module import CloverModule
from outrider.models.heads.config import HeadShape
from outrider.models.heads.medusa.module import MedusaModule
from outrider.models.heads.module import HeadModule, HeadNetwork
from outrider.models.llama.config import DecoderConfig
from outrider.models.llama.rope import RotaryTable, rotate


@dataclass(frozen=True, slots=True)
class Step:
    """What the chains of some texts draft in one step.

    Attributes:
        logits: `[rows, draft]` of the valid chains, in the order of texts and starts.
        outputs: `[rows, width]` their outputs, which the next step reads; of Clover, the
            predicted states.
        valid: which chains are valid.
    """

    logits: Float[Tensor, "rows draft"]
    outputs: Float[Tensor, "rows width"]
    valid: Bool[Tensor, "texts starts"]


@dataclass(frozen=True, slots=True)
class Texts:
    """Some texts, padded to one length.

    Attributes:
        states: `[texts, length, states, target]` of each token but the last one: those that a head
            fuses come first, and the last one is the final state, which is all that a head reads
            that predicts it.
        tokens: `[texts, length]` the token after each state: `tokens[:, t]` is read with state t.
        rows: `[texts, starts]` the rows at which chains start, ascending.
        counts: `[texts]` number of valid starts.
        hints: `[texts, length, steps]` the hint of step s of a chain that starts at each row.
        levels: `[texts, length, steps]` their levels.
    """

    states: Float[Tensor, "texts length states target"]
    tokens: Int[Tensor, "texts length"]
    rows: Int[Tensor, "texts starts"]
    counts: Int[Tensor, " texts"]
    hints: Int[Tensor, "texts length steps"]
    levels: Int[Tensor, "texts length steps"]

    def at(self, step: int) -> Int[Tensor, "texts starts"]:
        """Return the place of each chain in a step, limited to the text."""
        return (self.rows + step).clamp(max=self.tokens.shape[1] - 1)

    def valid(self, step: int) -> Bool[Tensor, "texts starts"]:
        """Whether the token that a chain drafts in a step is known."""
        numbers = torch.arange(self.rows.shape[1], device=self.rows.device)
        return numbers < (self.counts - step)[:, None]

    def targets(self, step: int) -> Int[Tensor, "texts starts"]:
        """Return the token that each chain should draft in a step."""
        return self.tokens.gather(1, self.at(step + 1))


def unroll(
    head: HeadNetwork[HeadShape], rotary: RotaryTable, texts: Texts, steps: int
) -> Iterator[Step]:
    """Yield what the chains draft in each step.

    Args:
        head: the head.
        rotary: its rotary embedding.
        texts: the texts.
        steps: number of steps; heads that read no drafted token have one for each head at most.
    """
    if isinstance(head, MedusaModule):
        yield from medusa_steps(head, texts, steps)
        return
    if isinstance(head, CloverModule):
        yield from clover_steps(head, rotary, texts, steps)
        return
    assert isinstance(head, HeadModule)  # all other kinds have one layer
    length = texts.tokens.shape[1]
    places = torch.arange(length, device=texts.tokens.device)
    final, count = head.config.predicts_states, len(head.config.states)
    states = texts.states[:, :, -1:] if final else texts.states[:, :, :count]
    stream, read = head.enter(
        head.fused(states), texts.tokens, texts.hints[..., 0], texts.levels[..., 0]
    )
    queries, keys, values = head.project(read)
    everywhere = places.expand(len(texts.tokens), length)
    first_keys = _turned(keys, rotary, everywhere, length + steps)
    stream = _taken(stream, texts.rows)
    queries = _taken(_turned(queries, rotary, everywhere, length + steps), texts.rows)
    hidden = places > texts.rows[..., None]
    own: list[tuple[Tensor, Tensor]] = []
    outputs = stream
    for step in range(steps):
        if step:
            stream, read = head.enter(
                head.continued(outputs),
                texts.tokens.gather(1, texts.at(step)),
                _taken(texts.hints[..., step], texts.rows),
                _taken(texts.levels[..., step], texts.rows),
            )
            queries, more, extra = head.project(read)
            at = texts.rows + step
            queries = _turned(queries, rotary, at, length + steps)
            own.append((_turned(more, rotary, at, length + steps), extra))
        attended = _attend(head.layer.config, queries, (first_keys, values), hidden, own)
        logits, outputs = head.answer(head.leave(stream, attended))
        valid = texts.valid(step)
        yield Step(logits[valid], outputs[valid], valid)


def medusa_steps(head: MedusaModule, texts: Texts, steps: int) -> Iterator[Step]:
    """Yield what `unroll` yields: every step reads the state at which the chain starts."""
    states = _taken(texts.states[:, :, -1], texts.rows)
    for step in range(min(steps, head.config.heads)):
        valid = texts.valid(step)
        read = states[valid]
        yield Step(head.logits(read, step), read, valid)


def clover_steps(
    head: CloverModule, rotary: RotaryTable, texts: Texts, steps: int
) -> Iterator[Step]:
    """Yield what `unroll` yields: the augmenting block runs once, and later steps read its result
    and the tokens after it."""
    state = _augmented(head, rotary, texts)
    predicted = head.first(state)
    for step in range(min(steps, head.config.longest or steps)):
        if step:
            state, predicted = head.step(state, texts.tokens.gather(1, texts.at(step)), step)
        valid = texts.valid(step)
        found = predicted[valid]
        yield Step(F.linear(found, head.lm_head), found, valid)


def _augmented(
    head: CloverModule, rotary: RotaryTable, texts: Texts
) -> Float[Tensor, "texts starts width"]:
    """Return the states of the drafts that begin at the starts."""
    length, last = texts.tokens.shape[1], head.config.layers - 1
    places = torch.arange(length, device=texts.tokens.device)
    rows = everywhere = places.expand(len(texts.tokens), length)
    stream = head.enter(texts.states[:, :, -1], texts.tokens)
    for number in range(head.config.layers):
        layer = head.layer(number)
        queries, keys, values = layer.project(layer.norm(stream, "input_layernorm.weight"))
        queries, keys = (_turned(one, rotary, everywhere, length) for one in (queries, keys))
        if number == last:  # only the starts are read after it
            rows, stream = texts.rows, _taken(stream, texts.rows)
            queries = _taken(queries, texts.rows)
        hidden = places > rows[..., None]
        stream = layer.leave(stream, _attend(layer.config, queries, (keys, values), hidden, []))
    return head.finish(stream if head.config.layers else _taken(stream, texts.rows))


def _turned(
    heads: Float[Tensor, "texts rows heads head_dim"],
    rotary: RotaryTable,
    places: Int[Tensor, "texts rows"],
    bound: int,
) -> Float[Tensor, "texts rows heads head_dim"]:
    """Rotate each head by its place; all places are below `bound`."""
    turns = rotary.at(places.flatten(), bound)
    return rotate(heads.flatten(0, 1), *turns).view_as(heads)


def _taken(rows: Tensor, index: Int[Tensor, "texts starts"]) -> Tensor:
    """Return the rows `index` of each text."""
    wide = index.reshape(*index.shape, *(1,) * (rows.dim() - 2))
    return rows.gather(1, wide.expand(-1, -1, *rows.shape[2:]))


def _attend(
    layer: DecoderConfig,
    queries: Float[Tensor, "texts starts heads head_dim"],
    first: tuple[Tensor, Tensor],
    hidden: Bool[Tensor, "texts starts length"],
    own: list[tuple[Tensor, Tensor]],
) -> Float[Tensor, "texts starts width"]:
    """Attend to the first step's keys that are not hidden, and to the chain's own ones."""
    group = layer.num_heads // layer.num_kv_heads
    wide = queries.unflatten(2, (layer.num_kv_heads, group)) * layer.attention_scale
    keys, values = first
    scores = torch.einsum("bskgd,btkd->bkgst", wide, keys)
    scores = scores.masked_fill(hidden[:, None, None], -torch.inf)
    if own:
        mine = [(wide * key[:, :, :, None]).sum(-1) for key, _ in own]
        scores = torch.cat((scores, torch.stack(mine, -1).permute(0, 2, 3, 1, 4)), -1)
    shares = scores.softmax(-1)
    length = keys.shape[1]
    out = torch.einsum("bkgst,btkd->bskgd", shares[..., :length], values)
    for place, (_, value) in enumerate(own):
        share = shares[..., length + place].permute(0, 3, 1, 2)
        out = out + share[..., None] * value[:, :, :, None]
    return out.flatten(2)
