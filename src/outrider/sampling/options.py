"""Sampling options as keyword arguments."""

from collections.abc import Mapping, Sequence
from typing import TypedDict

from outrider.sampling.checker import Checker
from outrider.sampling.constraint import Constraint, SchemaSource
from outrider.sampling.params import LogitsProcessor, StoppingCriterion


class SamplingOptions(TypedDict, total=False):
    """Keyword arguments of `Generator.generate`: the fields of `SamplingParams`, in the accepted
    types."""

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    typical_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    logit_bias: Mapping[int, float]
    banned_tokens: Sequence[int]
    forced_tokens: Mapping[int, int]
    seed: int | None
    stop: str | Sequence[str]
    stop_token_ids: int | Sequence[int]
    ignore_eos: bool
    min_new_tokens: int
    max_new_tokens: int
    logprobs: int | None
    logits_processors: Sequence[LogitsProcessor]
    stopping_criteria: Sequence[StoppingCriterion]
    constraint: Constraint | Checker | None
    checker: Checker | None
    json_schema: SchemaSource | None
    json: bool
    regex: str | None
    choice: Sequence[str] | None
    grammar: str | None
    gbnf: str | None
