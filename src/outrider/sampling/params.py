"""User settings: how tokens are chosen and when generation stops."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from numbers import Integral

from torch import Tensor

from outrider.core.checks import Range, check_ranges, shown
from outrider.core.errors import OptionError, reject_unknown
from outrider.sampling.checker import Checker
from outrider.sampling.constraint import SUGAR, Constraint

LogitsProcessor = Callable[[Tensor, Tensor], Tensor]
"""`(input_ids [1, n], scores [1, vocab]) -> scores`, as in `transformers`."""


StoppingCriterion = Callable[[Tensor, Tensor | None], object]
"""`(input_ids [1, n], scores or None) -> bool or bool tensor`, as in `transformers`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How tokens are chosen and when generation stops. Defaults: greedy, 128 tokens.

    Attributes:
        temperature: 0 selects the best token; otherwise scores are divided by it.
        top_k: keep this many best tokens; 0 keeps all.
        top_p: keep the smallest set of best tokens with at least this probability mass.
        min_p: keep tokens with at least this share of the best token's probability.
        typical_p: keep the locally typical tokens of this mass.
        repetition_penalty: divides positive and multiplies negative scores of tokens that occur in
            prompt or output.
        presence_penalty: subtracted from scores of tokens that occur in the output.
        frequency_penalty: the same, multiplied by the count.
        logit_bias: added to the scores of these ids.
        banned_tokens: ids that are never chosen.
        forced_tokens: generated index -> id that is forced at this index.
        seed: equal seeds give equal texts; None draws one.
        stop: strings that end the text and are not part of it.
        stop_token_ids: end tokens in addition to the model's own.
        ignore_eos: the model's own end tokens do not end the text.
        min_new_tokens: end tokens are not chosen before this many tokens.
        max_new_tokens: the text is cut after this many tokens.
        logprobs: number of top log-probabilities reported for each token; None reports none.
        logits_processors: called in order before the warps.
        stopping_criteria: called after each token.
        constraint: the grammar of the text. `of` also takes `json_schema`, `json`, `regex`,
            `choice`, `grammar` or `gbnf` in its place.
        checker: the predicate of the text, in place of a grammar; `of` also takes it as
            `constraint`.
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
    constraint: Constraint | None = None
    checker: Checker | None = None

    def __post_init__(self) -> None:
        for name in _TUPLES:
            if not isinstance(getattr(self, name), tuple):
                raise OptionError(f"{name} is {getattr(self, name)!r:.60}", hint="Give a tuple")
        check_ranges(self, _RANGES)
        for name in ("stop_token_ids", "banned_tokens"):
            _check_ids(name, getattr(self, name))
        for name in ("logit_bias", "forced_tokens"):
            _check_mapping(name, getattr(self, name))
        _check_ids("forced_tokens", self.forced_tokens.values())
        for bias in self.logit_bias.values():
            _BIAS.check("a bias in logit_bias", bias)
        for text in self.stop:
            if not isinstance(text, str):
                raise OptionError(f"stop holds {shown(text)}", hint="Give strings")
            if not text:
                raise OptionError("a stop string is empty", hint="Leave it out")
        if self.min_new_tokens > self.max_new_tokens:
            raise OptionError(
                f"min_new_tokens is {shown(self.min_new_tokens)}, above max_new_tokens "
                f"{self.max_new_tokens}",
                hint="Lower one or raise the other",
            )
        self._check_restrictions()

    def _check_restrictions(self) -> None:
        if self.checker is not None and not isinstance(self.checker, Checker):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise OptionError(f"checker is {shown(self.checker)}", hint="Give a Checker")
        if self.checker is not None and self.constraint is not None:
            raise OptionError("constraint and checker are given together", hint="Give one of them")
        if self.constraint is not None and self.ignore_eos:
            raise OptionError(
                "ignore_eos is set, but the grammar of the constraint says where the text ends",
                hint="Leave out one of the two",
            )
        if self.checker is not None and self.ignore_eos:
            raise OptionError(
                "ignore_eos is set, but the checker says where the text ends",
                hint="Leave out one of the two",
            )

    @classmethod
    def of(cls, **options: object) -> "SamplingParams":
        """Build from keyword options; for an unknown one, the error suggests the nearest known
        name."""
        reject_unknown("option", options, (*(f.name for f in fields(cls)), *SUGAR))
        tuples = {name: _as_tuple(options[name]) for name in _TUPLES if name in options}
        own = {n: v for n, v in options.items() if n not in SUGAR} | tuples
        if isinstance(checker := options.get("constraint"), Checker):
            if options.get("checker") is not None:
                raise OptionError("constraint and checker are given together", hint="Give one")
            own["checker"], options = checker, {**options, "constraint": None}
        own["constraint"] = Constraint.of(options)
        return cls(**own)  # pyright: ignore[reportArgumentType]

    @property
    def warps(self) -> dict[str, float]:
        """The settings of the warps, by name."""
        names = ("temperature", "top_k", "top_p", "min_p", "typical_p")
        return {name: getattr(self, name) for name in names}


_SHARE = Range(0.0, 1.0, above=True)
_COUNT = Range(0, whole=True)
_BIAS = Range(high=1e30)
_PENALTY = Range(-1e30, 1e30, hint="Give a number from -1e30 to 1e30")

_RANGES: Mapping[str, Range] = {
    "temperature": Range(0.0, 1e6),
    "top_k": _COUNT,
    "top_p": _SHARE,
    "min_p": Range(0.0, 1.0),
    "typical_p": _SHARE,
    "repetition_penalty": Range(0.0, 1e30, above=True, hint="Give a number above 0, up to 1e30"),
    "presence_penalty": _PENALTY,
    "frequency_penalty": _PENALTY,
    "min_new_tokens": _COUNT,
    "max_new_tokens": Range(1, whole=True),
    "logprobs": Range(0, whole=True, optional=True),
    "seed": Range(whole=True, optional=True),
}


_TUPLES = ("banned_tokens", "stop", "stop_token_ids", "logits_processors", "stopping_criteria")


def _check_ids(name: str, ids: Iterable[object]) -> None:
    """Reject invalid ids; a negative id would index from the end of the vocabulary."""
    for token in ids:
        if isinstance(token, bool) or not isinstance(token, Integral) or int(token) < 0:
            raise OptionError(f"{name} holds {shown(token)}", hint="Token ids are 0, 1, 2, ...")


def _check_mapping(name: str, value: object) -> None:
    if not isinstance(value, Mapping):
        raise OptionError(f"{name} is {value!r:.60}", hint="Give a mapping, such as {17: 4}")
    _check_ids(name, value)


def _as_tuple(value: object) -> tuple[object, ...]:
    """Return an iterable as a tuple, and a single value as a tuple of length one."""
    if value is None:
        return ()
    if isinstance(value, str) or not isinstance(value, Iterable):
        return (value,)
    return tuple(value)
