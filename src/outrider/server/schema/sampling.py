"""Fields that all requests that write text share."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from outrider.server.schema.base import Body, Known, Off, Whole
from outrider.server.schema.constraints import (
    Backend,
    Choices,
    Grammar,
    Schema,
    StructuredOutputs,
)

Share = Annotated[float, Field(ge=0, le=1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Token = Annotated[int, Field(ge=0, lt=2**31)]
Stop = Annotated[str, Field(min_length=1)]


class StreamOptions(Known):
    """Options of a stream."""

    include_usage: bool = False
    include_obfuscation: Off | None = None
    continuous_usage_stats: Off | None = None


class SpeculationOptions(Known):
    """How drafts are used for one request."""

    mode: str | None = None
    max_changed: Share | None = None


class SamplingBody(Body):
    """Model, sampling, limits, and the extensions that vLLM users know."""

    changing: ClassVar[tuple[str, ...]] = (
        *("use_beam_search", "length_penalty", "early_stopping", "allowed_token_ids", "bad_words"),
        *("top_a", "tfs_z", "mirostat", "mirostat_mode", "mirostat_tau", "mirostat_eta"),
        *("dry_multiplier", "xtc_probability", "samplers"),
        *("chat_template", "lora", "lora_request", "vllm_xargs", "kv_transfer_params"),
        *("n_predict", "repeat_penalty", "repeat_last_n", "thinking"),
    )

    model: str
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
    max_tokens: Annotated[Whole, Field(ge=0, lt=2**31)] | None = None
    n: Annotated[Whole, Field(ge=1)] | None = None
    seed: Annotated[Whole, Field(ge=-(2**63), lt=2**64)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=16)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    service_tier: Literal["auto", "default", "flex", "priority", "scale"] | None = None
    metadata: dict[str, Any] | None = None
    prompt_cache_key: str | None = None
    prompt_cache_options: dict[str, Any] | None = None
    prompt_cache_retention: str | None = None

    top_k: Annotated[Whole, Field(ge=-1, lt=2**31)] | None = None
    min_p: Share | None = None
    typical_p: Annotated[float, Field(gt=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(ge=1e-3, le=1e3)] | None = None
    min_tokens: Annotated[Whole, Field(ge=0, lt=2**31)] | None = None
    ignore_eos: bool | None = None
    stop_token_ids: list[Token] | None = None
    include_stop_str_in_output: bool | None = None
    skip_special_tokens: bool | None = None
    spaces_between_special_tokens: bool | None = None
    truncate_prompt_tokens: Annotated[Whole, Field(ge=-1, lt=2**31)] | None = None
    return_token_ids: bool | None = None
    return_sources: bool | None = None
    prompt_logprobs: Annotated[Whole, Field(ge=0, le=20)] | None = None
    add_special_tokens: bool | None = None
    priority: Annotated[Whole, Field(ge=-(2**31), lt=2**31)] | None = None
    cache_salt: Annotated[str, Field(min_length=1)] | None = None
    request_id: Annotated[str, Field(pattern=r"^[\x21-\x7e]{1,128}$")] | None = None
    speculation: SpeculationOptions | None = None

    structured_outputs: StructuredOutputs | None = None
    guided_json: Schema | str | None = None
    guided_regex: Grammar | None = None
    guided_choice: Choices | None = None
    guided_grammar: Grammar | None = None
    guided_whitespace_pattern: Grammar | None = None
    guided_decoding_backend: Backend | None = None
    grammar: Grammar | None = None
    json_schema: Schema | str | None = None

    @property
    def stops(self) -> list[str]:
        """The stop strings."""
        if self.stop is None:
            return []
        return [self.stop] if isinstance(self.stop, str) else self.stop

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with the counts of tokens."""
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def limit(self) -> int | None:
        """Most tokens of an answer; None: what fits."""
        return self.max_tokens

    @property
    def top(self) -> int | None:
        """How many log-probabilities each token has besides its own; None: none at all."""
        return None
