"""The answer of one request of a masked denoiser, and the loop that writes it."""

from collections.abc import Collection, Mapping, Sequence
from time import perf_counter

import numpy as np
import torch

from outrider.core.errors import ContextError, GrammarError, OptionError
from outrider.core.types import IntArray, as_ids
from outrider.diffusion.caching import Situation, caching_of
from outrider.diffusion.committing import Written, commit_chosen
from outrider.diffusion.completing import Completable
from outrider.diffusion.drawing import Drawing
from outrider.diffusion.ending import Ending
from outrider.diffusion.priors import end_of, place_fixed
from outrider.diffusion.proposals import Proposals
from outrider.diffusion.reading import Reader
from outrider.diffusion.rule import Block, Diffusion, View, blocks_of
from outrider.diffusion.trace import Round, Trace
from outrider.protocols.denoiser import Denoiser


class Denoising:
    """One request: a prompt, and an answer whose slots are written in any order.

    The result depends on the model, the prompt, the options and the seed only, so several requests
    can take turns: each call of `step` runs one round of its request.

    Attributes:
        answer: `[slots]`, the committed tokens, and the id of the mask at open slots.
        trace: what each round did.
        completed: whether a constraint wrote the ending.
    """

    def __init__(
        self,
        model: Denoiser,
        prompt: Sequence[int] | IntArray,
        rule: Diffusion,
        *,
        max_new_tokens: int = 128,
        drawing: Drawing | None = None,
        end_ids: Collection[int] | None = None,
        fixed: Mapping[int, int] | None = None,
        constraint: Completable | None = None,
    ) -> None:
        """Begin a request.

        Args:
            model: the denoiser.
            prompt: its ids; they may be empty.
            rule: which positions a round commits, with its options.
            max_new_tokens: slots of the answer; fewer if they do not fit into the window.
            drawing: how tokens are chosen; None: the most probable ones.
            end_ids: tokens that end the answer; None: those of the model.
            fixed: tokens that stand at some slots from the beginning. Behind a fixed end token
                there are no slots.
            constraint: what answers are allowed.

        Raises:
            ContextError: the prompt leaves no slot in the window.
            OptionError: an option is out of range, or the options do not fit together.
        """
        if max_new_tokens < 1:
            raise OptionError(f"max_new_tokens is {max_new_tokens}", hint="Give at least 1")
        room = model.info.context_length - len(prompt)
        if room < 1:
            raise ContextError(
                f"the prompt has {len(prompt)} tokens, and the window {model.info.context_length}",
                hint="Give a shorter prompt: the answer needs at least one token",
            )
        self._model, self._rule = model, rule
        self._drawing = Drawing() if drawing is None else drawing
        self._ends = frozenset(model.info.end_ids if end_ids is None else end_ids)
        self._constraint = constraint
        mask = model.mask_id
        self.answer = np.full(min(max_new_tokens, room), mask, dtype=np.int64)
        place_fixed(self.answer, fixed or {}, mask, model.info.vocab_size)
        self.answer = self.answer[: end_of(fixed or {}, self._ends, len(self.answer))].copy()
        if constraint is not None and not constraint.allows(self.answer.copy()):
            raise OptionError(
                "the constraint allows no answer with these fixed tokens",
                hint="Give other tokens, or another constraint",
            )
        self.trace = Trace()
        self.completed = False
        self._blocks = blocks_of(len(self.answer), rule.block)
        rule.check(model.info)
        self._commits = rule.begin(self._blocks)
        self._ending = Ending(self._ends)
        self._block_number, self._visit = -1, 0
        self._caching = caching_of(rule.cache, rule.refresh)
        self._reader = Reader(model, as_ids(prompt), len(self.answer), rule.guidance)
        if self._caching.stores:
            self._reader.open_stores()

    # -- what is written --------------------------------------------------------------------

    @property
    def open_slots(self) -> IntArray:
        """Slots that hold no token yet, ascending."""
        return np.flatnonzero(self.answer == self._model.mask_id)

    @property
    def prefix(self) -> list[int]:
        """Tokens that are committed without a gap, up to the first end token, which is the last
        one. They never change, so they can be streamed."""
        left = self.open_slots
        found = self.answer[: left[0] if len(left) else None].tolist()
        ends = [at for at, token in enumerate(found) if token in self._ends]
        return found[: ends[0] + 1] if ends else found

    @property
    def ended(self) -> bool:
        """Whether the tokens of `prefix` end with an end token."""
        written = self.prefix
        return bool(written) and written[-1] in self._ends

    @property
    def done(self) -> bool:
        """Whether the answer is complete: nothing is open, or only slots behind an end token."""
        return not len(self.open_slots) or self.ended

    # -- the loop ---------------------------------------------------------------------------

    def run(self) -> tuple[list[int], Trace]:
        """Run all rounds; return the tokens of the answer and the trace.

        Raises:
            LogitsError: the model returned logits from which no token can be chosen.
        """
        while not self.done:
            self.step()
        return self.prefix, self.trace

    @torch.inference_mode()
    def step(self) -> Round:
        """Run one round, which commits at least one token.

        Raises:
            LogitsError: the model returned logits from which no token can be chosen.
            GrammarError: the constraint refuses all tokens and knows no ending.
            RuntimeError: the answer is complete.
        """
        if self.done:
            raise RuntimeError("the answer is complete")
        began = perf_counter()
        if self._caching.prefills and not self.trace.rounds:
            self._reader.read_prompt()
            self.trace.forwards_before = self._reader.forwards
            self.trace.rows_before = self._reader.rows
        written = Written(self.answer, self._model.mask_id, self._constraint)
        view = self._view(written)
        self._commits.explore(view)
        if commit_chosen(self._commits, view, written):
            self._complete(written)
        elif self._rule.early_stop:
            self._cut(self._ending.cut(self.answer, self._model.mask_id, written, view.proposals))
        self._visit += 1
        before = (self.trace.forwards, self.trace.rows)
        self.trace.rounds.append(
            Round(
                slots=as_ids(written.slots),
                tokens=as_ids(written.tokens),
                logprobs=np.asarray(written.logprobs, dtype=np.float64),
                forwards=self._reader.forwards - before[0],
                rows=self._reader.rows - before[1],
                seconds=perf_counter() - began,
                refused=written.refused,
                completed=written.completed,
            )
        )
        return self.trace.rounds[-1]

    def _view(self, written: Written) -> View:
        """Run the first forward of a round."""
        masked = self.open_slots
        block = next(one for one in self._blocks if one.stop > masked[0])
        if block.number != self._block_number:
            self._block_number, self._visit = block.number, 0
        last = min(block.number + self._rule.reach, len(self._blocks)) - 1
        stop = self._blocks[last].stop
        window = masked[masked < stop]
        inside = window[window < block.stop]
        planned = None
        if self._rule.cache == "greedy":
            places = np.array([self._drawing.place(slot) for slot in inside.tolist()])
            planned = self._commits.planned(block, self._visit, inside, places)
        situation = self._situation(block, stop, planned)
        slots = window = window if planned is None else planned
        if self._rule.reads_block:
            slots = np.union1d(window, np.arange(block.start, block.stop))
        [logits] = self._reader.read([self.answer], slots, self._caching.plan(situation))
        opened = np.isin(slots, window)
        proposals = self._propose(logits[torch.from_numpy(opened).to(logits.device)], window)
        confidences = np.zeros(0)
        if self._rule.reads_block:
            within = torch.from_numpy((slots >= block.start) & (slots < block.stop))
            best = torch.softmax(logits[within.to(logits.device)], -1).amax(-1)
            confidences = best.double().cpu().numpy()

        def branches(slot: int, tokens: Sequence[int]) -> list[Proposals]:
            left = window[(window != slot) & (self.answer[window] == self._model.mask_id)]
            answers = [self.answer.copy() for _ in tokens]
            for answer, token in zip(answers, tokens, strict=True):
                answer[slot] = token
            after = self._situation(block, stop)
            rows = self._reader.read(answers, left, self._caching.branch(after))
            return [self._propose(one, left) for one in rows]

        return View(
            proposals=proposals,
            block=block,
            visit=self._visit,
            number=len(self.trace),
            open_slots=len(inside),
            block_confidences=confidences,
            allows=written.allows,
            commit=written.commit,
            branches=branches,
        )

    def _situation(self, block: Block, stop: int, planned: IntArray | None = None) -> Situation:
        prompt = len(self._reader.prompt)
        held = np.concatenate([np.full(prompt, True), self.answer != self._model.mask_id])
        recent = self.trace.rounds[-1].slots if self.trace.rounds else as_ids(())
        return Situation(
            prompt=prompt,
            start=prompt + block.start,
            stop=prompt + stop,
            visit=self._visit,
            held=held,
            stored=self._reader.stored,
            recent=np.sort(recent) + prompt,
            planned=None if planned is None else planned + prompt,
        )

    def _propose(self, logits: torch.Tensor, slots: IntArray) -> Proposals:
        suppress = self._rule.suppress
        return Proposals.of(
            logits,
            slots,
            self._drawing,
            len(self.trace),
            never={self._model.mask_id, *(self._ends if suppress == "logit" else ())},
            late=self._ends if suppress == "confidence" else (),
        )

    def _complete(self, written: Written) -> None:
        """Write the rest of the answer as the constraint completes it."""
        assert self._constraint is not None
        streamed = self.prefix
        found = self._constraint.complete(self.answer.copy())
        kept = found is not None and found[: len(streamed)].tolist() == streamed
        if found is None or not kept or (found == self._model.mask_id).any():
            raise GrammarError(
                "the constraint refuses all tokens and knows no ending",
                hint="Give a larger max_new_tokens",
            )
        held = int((self.answer != self._model.mask_id).sum())
        self.answer = as_ids(found)
        self.completed = True
        written.completed = max(len(self.answer) - held, 0)

    def _cut(self, length: int) -> None:
        """Drop the slots from `length` on."""
        if length < len(self.answer):
            prompt = len(self._reader.prompt)
            gone = np.arange(prompt + length, prompt + len(self.answer))
            if self._reader.stores:
                self._reader.drop(np.intersect1d(gone, self._reader.stored))
            self.answer = self.answer[:length].copy()
            self._blocks = [
                Block(one.number, one.start, min(one.stop, length))
                for one in self._blocks
                if one.start < length
            ]
