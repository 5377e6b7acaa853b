"""The sampler that drafted and undrafted decoding share.

A token is a function of its logits, the text so far, the seed and the index of the token only: the
argmax, over the warped support, of processed score plus Gumbel noise. At temperature 0 there is no
noise.
"""

import secrets
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from outrider import kernels
from outrider.core.errors import LogitsError
from outrider.core.types import NO_IDS, IntArray, as_ids
from outrider.sampling.checker import Checks, descending
from outrider.sampling.edits import edited
from outrider.sampling.noise import Purpose, gumbel, stream_key, uniform
from outrider.sampling.params import SamplingParams
from outrider.sampling.processors import copied, is_pure, stateful
from outrider.sampling.walk import Allowed, Options, Walk
from outrider.sampling.warps import Support, warp

NOT_FINITE = "logits hold NaN or +inf"


NOTHING_ALLOWED = "no token is allowed"


_TROUBLE = {kernels.NOT_FINITE: NOT_FINITE, kernels.NOTHING_ALLOWED: NOTHING_ALLOWED}


class Sampler:
    """Chooses tokens for one request; all tiers of the request use the same sampler."""

    def __init__(
        self,
        params: SamplingParams,
        *,
        prompt_ids: Sequence[int] = (),
        end_ids: Sequence[int] = (),
        sample: int = 0,
        walk: Walk | None = None,
        checks: Checks | None = None,
    ) -> None:
        """Prepare for the first token.

        Args:
            params: the settings.
            prompt_ids: ids of the prompt, for penalties.
            end_ids: the end tokens of the model.
            sample: number of the sample of the prompt; each has noise of its own.
            walk: the grammar that the text follows (`params.constraint`, compiled).
            checks: the predicate that the text fulfils (`params.checker`).
        """
        self.params = params
        self.walk = walk
        self.checks = checks
        self.seed = secrets.randbits(48) if params.seed is None else params.seed
        self.sample = sample
        self.prompt_ids = tuple(prompt_ids)
        self._in_prompt = torch.tensor(sorted(set(self.prompt_ids)), dtype=torch.int64)
        own = () if params.ignore_eos else tuple(end_ids)
        self.end_ids = frozenset((*own, *params.stop_token_ids))
        self.reads_text = self._needs_text()
        """Whether penalties or processors change the scores by the text so far."""
        self.stateful = bool(stateful(params.logits_processors))
        """Whether a logits processor may keep a state: only the target may call it, in order."""
        p = params
        self._reads_scores = bool(p.logit_bias or p.forced_tokens)
        self._kernel: kernels.PlainSampler | None = None
        self._edited_kernel: kernels.PlainSampler | None = None
        self._without: Sampler | None = None

    def _needs_text(self) -> bool:
        p = self.params
        penalties = (p.repetition_penalty - 1.0, p.presence_penalty, p.frequency_penalty)
        return any(penalties) or bool(p.logits_processors)

    def for_sample(self, sample: int) -> "Sampler":
        """Return the same settings with the noise of another sample of the prompt."""
        other = copy(self)
        other.sample, other._kernel, other._edited_kernel = sample, None, None
        other._without = None
        if self.stateful:
            own = copied(self.params.logits_processors)
            other.params = replace(self.params, logits_processors=own)
        other.walk = self.walk and self.walk.fork()
        return other

    def for_drafts(self) -> "Sampler":
        """Return the sampler of the draft models: without a checker, which the target alone asks,
        and without the processors that may keep a state."""
        if not self.stateful and self.checks is None:
            return self
        other = copy(self)
        other.checks, other._without = None, None
        if not self.stateful:
            return other
        kept = tuple(p for p in self.params.logits_processors if is_pure(p))
        other.params = replace(self.params, logits_processors=kept)
        other.reads_text, other.stateful = other._needs_text(), False
        return other

    @property
    def unrestricted(self) -> "Sampler":
        """The same settings and noise without the grammar and the checker."""
        if self.walk is None and self.checks is None:
            return self
        if self._without is None:
            self._without = copy(self)
            self._without.walk = self._without.checks = None
        return self._without

    def plain(self, index: int) -> bool:
        """Whether the choice at generated index `index` depends on its scores only through
        temperature, top-k, top-p and min-p; fast paths support these settings."""
        return self.quick(index) and not self.params.banned_tokens

    def quick(self, index: int) -> bool:
        """Whether the choice is plain except for banned tokens, which compiled and captured code
        also supports. Image-text models ban their image tokens."""
        return self.walk is None and self.checks is None and self._unedited(index)

    def _unedited(self, index: int) -> bool:
        """Whether the choice at `index` needs no bias, penalty, processor or typical mass."""
        p = self.params
        return not (
            self.reads_text or self._reads_scores or index < p.min_new_tokens or p.typical_p < 1.0
        )

    @property
    def kernel(self) -> kernels.PlainSampler:
        """The settings in the form that the compiled kernels read."""
        if self._kernel is None:
            self._kernel = self._kernel_with(self.params.banned_tokens)
        return self._kernel

    def _kernel_with(self, banned: Sequence[int]) -> kernels.PlainSampler:
        p = self.params
        return kernels.PlainSampler.of(
            temperature=p.temperature,
            top_k=p.top_k,
            top_p=p.top_p,
            min_p=p.min_p,
            seed=self.seed,
            sample=self.sample,
            banned=banned,
        )

    def choose_at(self, logits: Float[Tensor, " vocab"], index: int) -> int | None:
        """Return the choice at generated index `index` by the compiled kernel; None if the kernel
        does not apply and `choose` must be used. The decision depends only on settings, dtype and
        device, so drafted and undrafted decoding use the same path. Raises `LogitsError`.
        """
        if (
            logits.dtype is not torch.float32
            or not logits.is_cpu
            or not self.quick(index)
            or not kernels.available()
        ):
            return None
        token = kernels.choose(logits.contiguous(), self.kernel, index)
        if token < 0:
            raise LogitsError(_TROUBLE[token])
        return token

    def choose_edited(
        self, logits: Float[Tensor, " vocab"], generated: Sequence[int] | IntArray
    ) -> int | None:
        """Return the choice after `generated` by the compiled kernel, from an edited copy of the
        scores; None for settings, dtypes and devices that need `process`. Raises `LogitsError`.
        """
        if (
            logits.dtype is not torch.float32
            or not logits.is_cpu
            or not self._edits_only
            or not kernels.available()
        ):
            return None
        if self.walk is not None and (quick := self._choice_without(logits, generated)) is not None:
            return quick
        index, allowed = len(generated), self._allowed(logits.numel(), generated)
        if allowed is not None and self._unedited(index):
            token = kernels.choose(logits.contiguous(), self.kernel, index, allowed)
        else:
            row = logits.numpy()
            if not row.max() < np.inf:
                raise LogitsError(NOT_FINITE)
            ends = NO_IDS if self.walk is not None else as_ids(sorted(self.end_ids))
            numbers = edited(row, self.params, as_ids(self._in_prompt.numpy()), generated, ends)
            if self._edited_kernel is None:
                self._edited_kernel = self._kernel_with(())  # a forced token may be a banned one
            scores = torch.from_numpy(numbers)
            token = kernels.choose(scores, self._edited_kernel, index, allowed)
        if token < 0:
            raise LogitsError(_TROUBLE[token])
        return token

    def single(self, generated: Sequence[int]) -> int | None:
        """Return the token that follows `generated` whatever the logits are, because the grammar
        allows no other; None if there is a choice."""
        p = self.params
        if self.walk is None or p.banned_tokens or p.logits_processors or p.forced_tokens:
            return None
        options = self.walk.after(generated)
        return None if options is None else options.single

    def _choice_without(
        self, logits: Float[Tensor, " vocab"], generated: Sequence[int] | IntArray
    ) -> int | None:
        """Return the choice without the grammar, if the grammar allows it; None otherwise.

        The choice is the largest sum of score and noise. If it is allowed, it is also the largest
        one of those that are allowed. This does not hold after truncation, which depends on what
        is allowed.
        """
        p, index = self.params, len(generated)
        truncated = p.top_k or p.top_p < 1.0 or p.min_p > 0.0
        if truncated or not self._unedited(index):
            return None
        token = kernels.choose(logits.contiguous(), self.kernel, index)
        if token < 0 or self.walk is None:
            return None
        if token in self.end_ids:
            options = self.walk.after(generated)
            return token if options is not None and options.accepting else None
        return token if self.walk.allows(generated, token) else None

    def _allowed(self, width: int, generated: Sequence[int] | IntArray) -> Allowed | None:
        """Return which of `width` tokens may follow by the grammar, end tokens included; None for
        all, without a grammar and behind texts that will be refused."""
        options: Options | None = self.walk and self.walk.after(generated)
        if options is None:
            return None
        found = np.zeros(width, dtype=np.bool_)
        size = min(width, len(options.tokens))
        found[:size] = options.tokens[:size]
        early = len(generated) < self.params.min_new_tokens and options.count > 0
        found[[i for i in self.end_ids if i < width]] = options.accepting and not early
        return found

    @property
    def _edits_only(self) -> bool:
        """Whether `edits.edited` and the warps of the kernel are all that a choice needs."""
        return self.params.typical_p == 1.0 and not self.params.logits_processors

    def process(
        self, logits: Float[Tensor, " vocab"], generated: Sequence[int] | IntArray
    ) -> Float[Tensor, " vocab"]:
        """Return the scores after bias, penalties, bans and the user's processors, before the
        warps.

        `generated` are the tokens before this one, including the drafted tokens on its path. Raises
        `LogitsError` for logits from which no token can be chosen.
        """
        if bool((logits.isnan() | (logits == torch.inf)).any()):
            raise LogitsError(NOT_FINITE)
        p = self.params
        scores = logits if logits.dtype == torch.float64 else logits.float()
        if p.logit_bias or p.banned_tokens or self.reads_text or p.min_new_tokens:
            scores = scores.clone()
        width = scores.numel()
        for token, bias in p.logit_bias.items():
            if token < width:
                scores[token] += bias
        if self.reads_text:
            self._penalise(scores, generated)
        if p.banned_tokens:
            scores[[i for i in p.banned_tokens if i < width]] = -torch.inf
        if len(generated) < p.min_new_tokens and self.end_ids and self.walk is None:
            scores[[i for i in self.end_ids if i < width]] = -torch.inf
        for processor in p.logits_processors:
            ids = torch.tensor([[*self.prompt_ids, *generated]], device=scores.device)
            scores = processor(ids, scores[None])[0]
        forced = p.forced_tokens.get(len(generated))
        if forced is not None:
            scores = torch.full_like(scores, -torch.inf)
            scores[forced : forced + 1] = 0.0
        if (allowed := self._allowed(width, generated)) is not None:
            refused = torch.from_numpy(~allowed).to(scores.device)
            scores = scores.masked_fill(refused, -torch.inf)
        if not bool((scores > -torch.inf).any()):
            raise LogitsError(NOTHING_ALLOWED)
        return scores

    def _penalise(self, scores: Tensor, generated: Sequence[int] | IntArray) -> None:
        p = self.params
        device = scores.device
        output = torch.tensor(list(generated), dtype=torch.int64, device=device)
        if p.repetition_penalty != 1.0:
            seen = torch.cat((self._in_prompt.to(device), output))
            seen = seen[seen < scores.numel()]
            s = scores[seen]  # a repeated id is written twice with the same value
            scores[seen] = torch.where(s < 0, s * p.repetition_penalty, s / p.repetition_penalty)
        if output.numel() and (p.presence_penalty or p.frequency_penalty):
            inside = output[output < scores.numel()]
            seen, counts = torch.unique(inside, return_counts=True)
            scores[seen] -= p.presence_penalty + p.frequency_penalty * counts.to(scores.dtype)

    def support(
        self, logits: Float[Tensor, " vocab"], generated: Sequence[int] | IntArray
    ) -> Support:
        """Return the candidate tokens after processing and warping."""
        warps = self.params.warps
        return warp(self.process(logits, generated), **warps)  # pyright: ignore[reportArgumentType]

    def choose(self, logits: Float[Tensor, " vocab"], generated: Sequence[int] | IntArray) -> int:
        """Return the token that follows `generated`: the same for every tier and every draft.

        Raises:
            LogitsError: no token can be chosen.
        """
        if self.checks is not None:
            return self._first_legal(self.checks, logits, generated)
        quick = self.choose_at(logits, len(generated))
        quick = self.choose_edited(logits, generated) if quick is None else quick
        if quick is not None:
            return quick
        return self.draw(self.support(logits, generated), len(generated), Purpose.CHOICE)

    def _first_legal(
        self, checks: Checks, logits: Float[Tensor, " vocab"], generated: Sequence[int] | IntArray
    ) -> int:
        """Return the first token of `candidates` that the checker allows. The first candidate is
        the choice without the checker, which compiled code finds."""
        free = self.unrestricted
        token = free.choose_at(logits, len(generated))
        token = free.choose_edited(logits, generated) if token is None else token
        if token is not None:
            end = token in self.end_ids
            if checks.complete(generated) if end else checks.allows(generated, token):
                return token
        return checks.first(self.candidates(logits, generated), generated, self.end_ids)

    def candidates(
        self, logits: Float[Tensor, " vocab"], generated: Sequence[int] | IntArray
    ) -> Iterator[int]:
        """Yield the tokens that may follow without a checker, in the order in which one is asked.

        First the support, by score plus noise; then, as if the truncation were loosened token by
        token, those that the warps dropped, by score.
        """
        scores = self.process(logits, generated)
        warps = self.params.warps
        support = warp(scores, **warps)  # pyright: ignore[reportArgumentType]
        keys = support.scores.double()
        if self.params.temperature > 0:
            keys = self.perturbed(support, len(generated), Purpose.CHOICE)
        ids = support.ids.numpy()
        yield from (int(ids[place]) for place in descending(keys.numpy()))
        below = scores.double().cpu().numpy().copy()
        below[ids] = -np.inf
        for token in descending(below):
            if below[token] == -np.inf:
                return
            yield token

    def probs(
        self, logits: Float[Tensor, " vocab"], generated: Sequence[int] | IntArray
    ) -> Float[Tensor, " vocab"]:
        """Return the warped distribution that `choose` draws from, float64 on the CPU."""
        return self.support(logits, generated).probs(logits.numel())

    def draw(
        self, support: Support, index: int, purpose: Purpose, tier: int = 0, sibling: int = 0
    ) -> int:
        """Draw one token of `support` with the noise of the given stream."""
        if support.ids.numel() == 1:
            return int(support.ids[0])
        return int(support.ids[self.perturbed(support, index, purpose, tier, sibling).argmax()])

    def perturbed(
        self, support: Support, index: int, purpose: Purpose, tier: int = 0, sibling: int = 0
    ) -> Float[Tensor, " kept"]:
        """Return the scores of `support` plus the noise of the given stream. The largest is the
        draw, and the descending order is an order of draws without replacement.
        """
        key = stream_key(self.seed, self.sample, index, purpose, tier, sibling)
        return support.scores.double() + gumbel(key, support.ids)

    def draw_from(
        self, probs: Float[Tensor, " vocab"], index: int, purpose: Purpose, tier: int
    ) -> int:
        """Draw one token from a distribution given as probabilities."""
        ids = torch.nonzero(probs > 0).flatten()
        return self.draw(Support(ids, probs[ids].log()), index, purpose, tier)

    def uniform(self, index: int, purpose: Purpose, tier: int, sibling: int = 0) -> float:
        """Return a uniform number in (0, 1) from the given stream."""
        return uniform(stream_key(self.seed, self.sample, index, purpose, tier, sibling))
