"""One round over values: propose, verify, accept, commit, as in `decoding/round.py`."""

from dataclasses import dataclass, field
from typing import Generic

import torch
from jaxtyping import Float, Int
from torch import Tensor

from outrider.diffusion.continuous.noise import SequenceNoise
from outrider.diffusion.continuous.rules import ValueRule, accept
from outrider.diffusion.continuous.values import (
    C,
    Densities,
    ValueDraft,
    ValueModel,
    ValueVerdict,
)


@dataclass(slots=True)
class Counts:
    """What was counted for one sequence.

    Attributes:
        target_forwards: forwards of the target that it took part in.
        target_rows: positions of these forwards.
        draft_forwards: forwards of the draft model that it took part in.
        drafted: values that were drafted.
        accepted: drafted values that were kept.
        rejected: drafted values that were tested and replaced. The other drafted values lay behind
            one of these and were not tested.
        tries: values that were tried for corrections.
        enveloped: corrections that needed the second proposal (`residual_draw`).
        bounded: corrections whose tries were used up; they do not have the right density.
    """

    target_forwards: int = 0
    target_rows: int = 0
    draft_forwards: int = 0
    drafted: int = 0
    accepted: int = 0
    rejected: int = 0
    tries: int = 0
    enveloped: int = 0
    bounded: int = 0

    @property
    def acceptance(self) -> float:
        """Share of tested values that were kept; NaN if none was tested."""
        tested = self.accepted + self.rejected
        return self.accepted / tested if tested else float("nan")


@dataclass(slots=True)
class Sequences(Generic[C]):
    """Sequences that are written together, each at its own position.

    Attributes:
        noise: all noise of them.
        values: committed values; the rest is 0.
        done: how many are committed.
        target_cache: of the target; its slots below `done` are valid.
        draft_cache: of the draft model; its slots below `filled` are valid. None: there is none.
        filled: see `draft_cache`.
        counts: of each sequence.
    """

    noise: SequenceNoise
    values: Float[Tensor, "images length size"]
    done: Int[Tensor, " images"]
    target_cache: C
    draft_cache: C | None
    filled: Int[Tensor, " images"]
    counts: list[Counts] = field(default_factory=list[Counts])

    @staticmethod
    def begin(
        target: ValueModel[C], draft: ValueModel[C] | None, noise: SequenceNoise
    ) -> "Sequences[C]":
        """Return empty sequences, one for each of the noise."""
        count = len(noise.samples)
        return Sequences(
            noise=noise,
            values=torch.zeros(count, target.length, target.size, dtype=torch.float64),
            done=torch.zeros(count, dtype=torch.long),
            target_cache=target.start(count),
            draft_cache=None if draft is None else draft.start(count),
            filled=torch.zeros(count, dtype=torch.long),
            counts=[Counts() for _ in range(count)],
        )

    def drop_finished(self) -> "list[tuple[int, Tensor, Counts]]":
        """Remove finished sequences; return number, values and counts of each."""
        going = self.done < self.values.shape[1]
        if bool(going.all()):
            return []
        over = (~going).nonzero().flatten().tolist()
        found = [(self.noise.samples[i], self.values[i], self.counts[i]) for i in over]
        self.values, self.done, self.filled = (
            one[going] for one in (self.values, self.done, self.filled)
        )
        self.counts = [self.counts[i] for i in going.nonzero().flatten().tolist()]
        self.noise.keep(going)
        self.target_cache.keep(going)
        if self.draft_cache is not None:
            self.draft_cache.keep(going)
        return found


def run_round(
    target: ValueModel[C],
    draft: ValueModel[C] | None,
    rule: ValueRule,
    sequences: Sequences[C],
    lengths: Int[Tensor, " images"],
) -> ValueVerdict:
    """Propose, verify, accept and commit; each sequence grows by at least one value.

    Args:
        target: the verifier.
        draft: what proposes; None where all lengths are 0.
        rule: decides which values are kept.
        sequences: unfinished sequences.
        lengths: values to draft for each.

    Raises:
        LogitsError: a density of the target is not finite.
    """
    proposed = propose(draft, rule, sequences, lengths)
    densities = verify(target, sequences, proposed)
    verdict = accept(rule, proposed, densities, sequences.noise, sequences.done)
    commit(sequences, proposed, verdict)
    return verdict


def propose(
    draft: ValueModel[C] | None,
    rule: ValueRule,
    sequences: Sequences[C],
    lengths: Int[Tensor, " images"],
) -> ValueDraft:
    """Return chains of values of the draft model. A chain ends before a value without a density."""
    count, length, size = sequences.values.shape
    room = (length - 1 - sequences.done).clamp(min=0)  # the target adds one value itself
    lengths = torch.minimum(lengths, room)
    most = int(lengths.max()) if draft is not None else 0
    if draft is None or sequences.draft_cache is None or not most:
        none = torch.zeros(count, 0, size, dtype=torch.float64)
        return ValueDraft(none, Densities(none, none, none[..., 0]), torch.zeros_like(lengths))
    rows = torch.arange(count)
    values: list[Tensor] = []
    densities: list[Densities] = []
    missing = int((sequences.done - sequences.filled).max())
    for step in range(most):
        places = sequences.done + step
        if step:
            span, before = places[:, None], values[-1][:, None]
        else:
            span = (places[:, None] - missing + torch.arange(missing + 1)).clamp(min=0)
            before = sequences.values[rows[:, None], (span - 1).clamp(min=0)]
        span = torch.where(lengths[:, None] > step, span, length)
        states = draft.read(sequences.draft_cache, span, before)[:, -1]
        inside = places.clamp(max=length)
        noise = sequences.noise.draft[rows, inside]
        found = draft.denoise(states, noise[:, :-1])
        lengths = torch.where(found.usable, lengths, lengths.clamp(max=step))
        drawn = found.drawn(noise[:, -1]) if rule.last_noise else found.mean
        values.append(drawn.nan_to_num(0.0, 0.0, 0.0))
        densities.append(found)
        for image in (lengths > step).nonzero().flatten().tolist():
            sequences.counts[image].draft_forwards += 1
    sequences.filled = torch.maximum(sequences.filled, sequences.done + lengths)
    return ValueDraft(torch.stack(values, dim=1), Densities.stacked(densities), lengths)


def verify(target: ValueModel[C], sequences: Sequences[C], draft: ValueDraft) -> Densities:
    """Return the target's densities of each drafted position and of the one behind, `[images, n +
    1]`, all of one forward. Rows behind a shorter chain have no meaning."""
    count, length, _ = sequences.values.shape
    columns = torch.arange(draft.values.shape[1] + 1)
    places = sequences.done[:, None] + columns
    places = torch.where(columns <= draft.lengths[:, None], places, length)
    last = sequences.values[torch.arange(count), (sequences.done - 1).clamp(min=0)]
    before = torch.cat([last[:, None], draft.values], dim=1)
    states = target.read(sequences.target_cache, places, before)
    noise = sequences.noise.target[torch.arange(count)[:, None], places]
    return target.denoise(states, noise[:, :, :-1])


def commit(sequences: Sequences[C], draft: ValueDraft, verdict: ValueVerdict) -> None:
    """Append the accepted values and the next one, and count."""
    for image, counts in enumerate(sequences.counts):
        kept, begun = int(verdict.accepted[image]), int(sequences.done[image])
        drafted = int(draft.lengths[image])
        sequences.values[image, begun : begun + kept] = draft.values[image, :kept]
        sequences.values[image, begun + kept] = verdict.next_values[image]
        counts.target_forwards += 1
        counts.target_rows += drafted + 1
        counts.drafted += drafted
        counts.accepted += kept
        counts.rejected += int(verdict.rejected[image])
        counts.tries += int(verdict.tries[image])
        counts.enveloped += int(verdict.enveloped[image])
        counts.bounded += int(verdict.bounded[image])
    sequences.done = sequences.done + verdict.accepted + 1
    # A draft model has read what it drafted from; behind a rejection, that is not the sequence.
    sequences.filled = torch.minimum(sequences.filled, sequences.done)
