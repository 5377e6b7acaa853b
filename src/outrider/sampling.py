"""One sampler for drafted and undrafted decoding.

A token is a function of its logits, the text so far, the seed and the index of the token alone:
the argmax, over the warped support, of processed score plus Gumbel noise. At temperature 0 there
is no noise.
"""

import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from numbers import Integral, Real

import torch
from jaxtyping import Float
from torch import Tensor

from outrider import kernels
from outrider.errors import LogitsError, OptionError, reject_unknown
from outrider.noise import Purpose, gumbel, stream_key, uniform
from outrider.types import IntArray
from outrider.warps import Support, warp

LogitsProcessor = Callable[[Tensor, Tensor], Tensor]
"""`(input_ids [1, n], scores [1, vocab]) -> scores`, as in `transformers`."""

StoppingCriterion = Callable[[Tensor, Tensor | None], object]
"""`(input_ids [1, n], scores or None) -> bool or bool tensor`, as in `transformers`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How tokens are chosen and when to stop. Defaults: greedy, 128 tokens.

    Attributes:
        temperature: 0 takes the best token; otherwise scores are divided by it.
        top_k: keep this many best tokens; 0 keeps all.
        top_p: keep the best tokens that hold this mass.
        min_p: keep tokens at least this share as likely as the best.
        typical_p: keep the locally typical tokens of this mass.
        repetition_penalty: divides positive and multiplies negative scores of tokens seen in
            prompt or output.
        presence_penalty: subtracted from scores of tokens seen in the output.
        frequency_penalty: the same, times the count.
        logit_bias: added to the scores of these ids.
        banned_tokens: ids never chosen.
        forced_tokens: generated index -> id that must stand there.
        seed: equal seeds give equal texts; None draws one.
        stop: strings that end the text and are not part of it.
        stop_token_ids: end tokens beside the model's own.
        ignore_eos: the model's own end tokens do not end the text.
        min_new_tokens: end tokens are not chosen before this many tokens.
        max_new_tokens: the text is cut after this many tokens.
        logprobs: top log-probabilities reported for each token; None reports none.
        logits_processors: called in order before the warps.
        stopping_criteria: called after each token.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    banned_tokens: tuple[int, ...] = ()
    forced_tokens: Mapping[int, int] = field(default_factory=dict)
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    min_new_tokens: int = 0
    max_new_tokens: int = 128
    logprobs: int | None = None
    logits_processors: tuple[LogitsProcessor, ...] = ()
    stopping_criteria: tuple[StoppingCriterion, ...] = ()

    def __post_init__(self) -> None:
        for name in _TUPLES:
            if not isinstance(getattr(self, name), tuple):
                raise OptionError(f"{name} is {getattr(self, name)!r:.60}", hint="Give a tuple")
        for name, kind in _NUMBERS.items():
            kind.check(name, getattr(self, name))
        for name in ("stop_token_ids", "banned_tokens"):
            _check_ids(name, getattr(self, name))
        for name in ("logit_bias", "forced_tokens"):
            _check_mapping(name, getattr(self, name))
        _check_ids("forced_tokens", self.forced_tokens.values())
        for bias in self.logit_bias.values():
            _BIAS.check("a bias in logit_bias", bias)
        for text in self.stop:
            if not isinstance(text, str):
                raise OptionError(f"stop holds {text!r}", hint="Give strings")
            if not text:
                raise OptionError("a stop string is empty", hint="Leave it out")
        if self.min_new_tokens > self.max_new_tokens:
            raise OptionError(
                f"min_new_tokens is {self.min_new_tokens}, above max_new_tokens "
                f"{self.max_new_tokens}",
                hint="Lower one or raise the other",
            )

    @classmethod
    def of(cls, **options: object) -> "SamplingParams":
        """Build from keyword options; an unknown one raises with the nearest known name."""
        reject_unknown("option", options, (f.name for f in fields(cls)))
        tuples = {name: _as_tuple(options[name]) for name in _TUPLES if name in options}
        return cls(**options | tuples)  # pyright: ignore[reportArgumentType]

    @property
    def warps(self) -> dict[str, float]:
        """The settings that shape the support, by name."""
        names = ("temperature", "top_k", "top_p", "min_p", "typical_p")
        return {name: getattr(self, name) for name in names}


NOT_FINITE = "logits hold NaN or +inf"
NOTHING_ALLOWED = "no token is allowed"
_TROUBLE = {kernels.NOT_FINITE: NOT_FINITE, kernels.NOTHING_ALLOWED: NOTHING_ALLOWED}

_INF = float("inf")


@dataclass(frozen=True, slots=True)
class _Number:
    """What a numeric option may be."""

    low: float = -_INF
    high: float = _INF
    above: bool = False
    """`low` itself is not allowed."""
    whole: bool = False
    optional: bool = False
    """None will do as well."""

    def check(self, name: str, value: object) -> None:
        """Raise `OptionError` unless `value` is one; a truth value is no number."""
        if value is None and self.optional:
            return
        kind = Integral if self.whole else Real
        if isinstance(value, bool) or not isinstance(value, kind):
            hint = "Give a whole number" if self.whole else "Give a number"
            raise OptionError(f"{name} is {value!r}", hint=hint)
        number = float(value)
        if not self.low <= number <= self.high or (self.above and number == self.low):
            raise OptionError(f"{name} is {value}", hint=f"Give a value {self}")

    def __str__(self) -> str:
        lower = f"above {self.low:g}" if self.above else f"of at least {self.low:g}"
        return lower if self.high >= 1e6 else f"{lower} and at most {self.high:g}"


_SHARE = _Number(0.0, 1.0, above=True)
_COUNT = _Number(0, whole=True)
_BIAS = _Number(high=1e30)
_NUMBERS: dict[str, _Number] = {
    "temperature": _Number(0.0, 1e6),
    "top_k": _COUNT,
    "top_p": _SHARE,
    "min_p": _Number(0.0, 1.0),
    "typical_p": _SHARE,
    "repetition_penalty": _Number(0.0, above=True),
    "presence_penalty": _Number(),
    "frequency_penalty": _Number(),
    "min_new_tokens": _COUNT,
    "max_new_tokens": _Number(1, whole=True),
    "logprobs": _Number(0, whole=True, optional=True),
    "seed": _Number(whole=True, optional=True),
}
_TUPLES = ("banned_tokens", "stop", "stop_token_ids", "logits_processors", "stopping_criteria")


def _check_ids(name: str, ids: Iterable[object]) -> None:
    """Refuse what is no id; a negative one would count from the end of the vocabulary."""
    for token in ids:
        if isinstance(token, bool) or not isinstance(token, Integral) or int(token) < 0:
            raise OptionError(f"{name} holds {token!r}", hint="Token ids are 0, 1, 2, ...")


def _check_mapping(name: str, value: object) -> None:
    if not isinstance(value, Mapping):
        raise OptionError(f"{name} is {value!r:.60}", hint="Give a mapping, such as {17: 4}")
    _check_ids(name, value)


def _as_tuple(value: object) -> tuple[object, ...]:
    """Several values as a tuple, a single one as a tuple of one."""
    if value is None:
        return ()
    if isinstance(value, str) or not isinstance(value, Iterable):
        return (value,)
    return tuple(value)


class Sampler:
    """Chooses tokens for one request; every tier of that request uses the same one."""

    def __init__(
        self,
        params: SamplingParams,
        *,
        prompt_ids: Sequence[int] = (),
        end_ids: Sequence[int] = (),
        sample: int = 0,
    ) -> None:
        self.params = params
        self.seed = secrets.randbits(48) if params.seed is None else params.seed
        self.sample = sample
        self.prompt_ids = tuple(prompt_ids)
        self._in_prompt = torch.tensor(sorted(set(self.prompt_ids)), dtype=torch.int64)
        own = () if params.ignore_eos else tuple(end_ids)
        self.end_ids = frozenset((*own, *params.stop_token_ids))
        self._reads_text = (
            params.repetition_penalty != 1.0
            or params.presence_penalty != 0.0
            or params.frequency_penalty != 0.0
            or bool(params.logits_processors)
        )
        p = params
        self._reads_scores = bool(p.logit_bias or p.forced_tokens)
        self._kernel: kernels.PlainSampler | None = None

    def plain(self, index: int) -> bool:
        """Whether the choice at generated index `index` follows from its scores by temperature,
        top-k, top-p and min-p alone; short cuts know these."""
        return self.quick(index) and not self.params.banned_tokens

    def quick(self, index: int) -> bool:
        """Whether it is plain but for banned tokens: what is compiled or captured knows these too.
        Image-text models ban their image tokens."""
        p = self.params
        return not (
            self._reads_text or self._reads_scores or index < p.min_new_tokens or p.typical_p < 1.0
        )

    @property
    def kernel(self) -> kernels.PlainSampler:
        """The settings as the compiled kernels read them."""
        if self._kernel is None:
            p = self.params
            self._kernel = kernels.PlainSampler.of(
                temperature=p.temperature,
                top_k=p.top_k,
                top_p=p.top_p,
                min_p=p.min_p,
                seed=self.seed,
                sample=self.sample,
                banned=p.banned_tokens,
            )
        return self._kernel

    def choose_at(self, logits: Float[Tensor, " vocab"], index: int) -> int | None:
        """The choice at generated index `index` by the compiled kernel; None where that does not
        apply, and `choose` must tell. Which of the two it is depends on settings, dtype and device
        alone, so drafted and undrafted texts ask the same one. Raises `LogitsError`."""
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

    def process(
        self, logits: Float[Tensor, " vocab"], generated: Sequence[int] | IntArray
    ) -> Float[Tensor, " vocab"]:
        """Scores after bias, penalties, bans and the user's processors, before the warps.

        `generated` are the tokens written before this one, the drafted ones of its path included.
        Raises `LogitsError` for logits from which nothing can be chosen.
        """
        if bool((logits.isnan() | (logits == torch.inf)).any()):
            raise LogitsError(NOT_FINITE)
        p = self.params
        scores = logits if logits.dtype == torch.float64 else logits.float()
        if p.logit_bias or p.banned_tokens or self._reads_text or p.min_new_tokens:
            scores = scores.clone()
        width = scores.numel()
        for token, bias in p.logit_bias.items():
            if token < width:
                scores[token] += bias
        if self._reads_text:
            self._penalise(scores, generated)
        if p.banned_tokens:
            scores[[i for i in p.banned_tokens if i < width]] = -torch.inf
        if len(generated) < p.min_new_tokens and self.end_ids:
            scores[[i for i in self.end_ids if i < width]] = -torch.inf
        for processor in p.logits_processors:
            ids = torch.tensor([[*self.prompt_ids, *generated]], device=scores.device)
            scores = processor(ids, scores[None])[0]
        forced = p.forced_tokens.get(len(generated))
        if forced is not None:
            scores = torch.full_like(scores, -torch.inf)
            scores[forced : forced + 1] = 0.0
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
            s = scores[seen]  # an id that stands here twice is written twice, with one value
            scores[seen] = torch.where(s < 0, s * p.repetition_penalty, s / p.repetition_penalty)
        if output.numel() and (p.presence_penalty or p.frequency_penalty):
            inside = output[output < scores.numel()]
            seen, counts = torch.unique(inside, return_counts=True)
            scores[seen] -= p.presence_penalty + p.frequency_penalty * counts.to(scores.dtype)

    def support(
        self, logits: Float[Tensor, " vocab"], generated: Sequence[int] | IntArray
    ) -> Support:
        """Tokens in play after processing and warping."""
        warps = self.params.warps
        return warp(self.process(logits, generated), **warps)  # pyright: ignore[reportArgumentType]

    def choose(self, logits: Float[Tensor, " vocab"], generated: Sequence[int] | IntArray) -> int:
        """The token that stands after `generated`: the same for every tier and every draft."""
        quick = self.choose_at(logits, len(generated))
        if quick is not None:
            return quick
        return self.draw(self.support(logits, generated), len(generated), Purpose.CHOICE)

    def law(
        self, logits: Float[Tensor, " vocab"], generated: Sequence[int] | IntArray
    ) -> Float[Tensor, " vocab"]:
        """The warped distribution, float64 on the CPU, that `choose` draws from."""
        return self.support(logits, generated).law(logits.numel())

    def draw(
        self, support: Support, index: int, purpose: Purpose, tier: int = 0, sibling: int = 0
    ) -> int:
        """One token of `support`, by the noise of the stream named."""
        if support.ids.numel() == 1:
            return int(support.ids[0])
        return int(support.ids[self.perturbed(support, index, purpose, tier, sibling).argmax()])

    def perturbed(
        self, support: Support, index: int, purpose: Purpose, tier: int = 0, sibling: int = 0
    ) -> Float[Tensor, " kept"]:
        """Scores of `support` with the noise of the stream named; the largest is the draw, and the
        order of all of them is one of draws without replacement."""
        key = stream_key(self.seed, self.sample, index, purpose, tier, sibling)
        return support.scores.double() + gumbel(key, support.ids)

    def draw_from(
        self, law: Float[Tensor, " vocab"], index: int, purpose: Purpose, tier: int
    ) -> int:
        """One token from a distribution given as probabilities."""
        ids = torch.nonzero(law > 0).flatten()
        return self.draw(Support(ids, law[ids].log()), index, purpose, tier)

    def uniform(self, index: int, purpose: Purpose, tier: int, sibling: int = 0) -> float:
        """A number in (0, 1) of the stream named."""
        return uniform(stream_key(self.seed, self.sample, index, purpose, tier, sibling))
