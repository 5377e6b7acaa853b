"""Every field of `GenerationConfig` of `transformers`, and what Outrider does with it.

`docs/guide-transformers.md` shows this table; a test compares both with the class.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from outrider.core.values import JsonValue


class Use(StrEnum):
    """What becomes of a field."""

    OPTION = "followed"
    """An option of `SamplingParams`, or a limit on the length."""
    PROCESSOR = "followed by the class of transformers"
    """A logits processor, or a stopping criterion, of `transformers`."""
    LOADING = "followed by outrider.generate"
    """Chosen when the model is loaded, so that `load` does not follow a configuration."""
    DRAFTING = "mapped"
    """Configures drafting, which never changes the text in mode exact."""
    NO_EFFECT = "no effect on the tokens"
    """Caches, compilation, reports, and details of methods that are refused."""
    REFUSED = "refused"
    """Changes the text in a way that is not built: named in one line."""


@dataclass(frozen=True, slots=True)
class Field:
    """One field.

    Attributes:
        use: what becomes of it.
        default: the value that changes nothing.
        note: the counterpart, or how to get what is meant.
    """

    use: Use
    default: JsonValue = None
    note: str = ""


_BEAMS = "Use outrider.load(...).search('beam', ...)"
_DICT = "Use outrider.load(...).generate, whose Result holds log-probabilities and counts"

FIELDS: Mapping[str, Field] = {
    # Length and ends.
    "max_length": Field(Use.OPTION, 20, "max_new_tokens, without the prompt"),
    "max_new_tokens": Field(Use.OPTION, note="max_new_tokens"),
    "min_length": Field(Use.OPTION, 0, "min_new_tokens, without the prompt"),
    "min_new_tokens": Field(Use.OPTION, note="min_new_tokens"),
    "stop_strings": Field(Use.OPTION, note="stop"),
    "max_time": Field(Use.PROCESSOR),
    "eos_token_id": Field(Use.OPTION, note="the end tokens; stop_token_ids"),
    "pad_token_id": Field(Use.OPTION, note="pads the rows of outrider.generate"),
    # Choice of tokens.
    "do_sample": Field(Use.OPTION, False, "temperature 0 if false"),
    "temperature": Field(Use.OPTION, 1.0, "temperature"),
    "top_k": Field(Use.OPTION, 50, "top_k"),
    "top_p": Field(Use.OPTION, 1.0, "top_p"),
    "min_p": Field(Use.OPTION, note="min_p"),
    "typical_p": Field(Use.OPTION, 1.0, "typical_p"),
    "top_h": Field(Use.PROCESSOR),
    "epsilon_cutoff": Field(Use.PROCESSOR, 0.0),
    "eta_cutoff": Field(Use.PROCESSOR, 0.0),
    "repetition_penalty": Field(Use.OPTION, 1.0, "repetition_penalty"),
    "encoder_repetition_penalty": Field(Use.PROCESSOR, 1.0),
    "no_repeat_ngram_size": Field(Use.PROCESSOR, 0),
    "encoder_no_repeat_ngram_size": Field(Use.PROCESSOR, 0),
    "bad_words_ids": Field(Use.PROCESSOR, note="words of one token: banned_tokens"),
    "suppress_tokens": Field(Use.OPTION, note="banned_tokens"),
    "begin_suppress_tokens": Field(Use.PROCESSOR),
    "forced_bos_token_id": Field(Use.PROCESSOR),
    "forced_eos_token_id": Field(Use.PROCESSOR),
    "sequence_bias": Field(Use.PROCESSOR, note="single tokens: logit_bias"),
    "exponential_decay_length_penalty": Field(Use.PROCESSOR),
    "watermarking_config": Field(Use.PROCESSOR),
    "renormalize_logits": Field(Use.NO_EFFECT, False, "changes scores, not the choice"),
    "remove_invalid_values": Field(
        Use.REFUSED, False, "Logits that are not finite end the request with an error"
    ),
    "guidance_scale": Field(Use.LOADING, note="guidance of outrider.load"),
    "penalty_alpha": Field(Use.REFUSED, note="Use outrider.load(...).search('contrastive', ...)"),
    "dola_layers": Field(Use.REFUSED, note="Give guidance='dola'"),
    "constraints": Field(Use.REFUSED, note="Give a logits processor that allows what you need"),
    "force_words_ids": Field(Use.REFUSED, note="Give a logits processor that allows what you need"),
    "token_healing": Field(Use.REFUSED, False, "End the prompt at the end of a word"),
    # Beams.
    "num_beams": Field(Use.REFUSED, 1, _BEAMS),
    "num_beam_groups": Field(Use.REFUSED, 1, _BEAMS.replace("beam", "diverse-beam")),
    "diversity_penalty": Field(Use.NO_EFFECT, 0.0, "weighs groups of beams"),
    "early_stopping": Field(Use.NO_EFFECT, False, "ends beam search"),
    "length_penalty": Field(Use.NO_EFFECT, 1.0, "ranks beams"),
    # Results.
    "num_return_sequences": Field(Use.OPTION, 1, "n"),
    "output_attentions": Field(Use.REFUSED, False, _DICT),
    "output_hidden_states": Field(Use.REFUSED, False, _DICT),
    "output_scores": Field(Use.REFUSED, False, _DICT),
    "output_logits": Field(Use.REFUSED, False, _DICT),
    "return_dict_in_generate": Field(Use.REFUSED, False, _DICT),
    # Drafting.
    "num_assistant_tokens": Field(Use.DRAFTING, note="num_speculative_tokens"),
    "prompt_lookup_num_tokens": Field(Use.DRAFTING, note='drafter="lookup"'),
    "max_matching_ngram_size": Field(Use.DRAFTING, note='drafter="lookup(max_ngram=...)"'),
    "assistant_early_exit": Field(Use.REFUSED, note='Give drafter="del" or drafter="swift"'),
    "assistant_ensemble_weight": Field(Use.REFUSED, note="Mixing with the draft is not built"),
    "use_mtp": Field(Use.REFUSED, False, "Heads for several tokens are not read"),
    "speculation_type": Field(Use.REFUSED, note="Choose a drafter: `outrider methods`"),
    "assistant_confidence_threshold": Field(Use.NO_EFFECT, 0.4, 'policy="confidence"'),
    "num_assistant_tokens_schedule": Field(Use.NO_EFFECT, "constant", 'policy="expected-gain"'),
    "assistant_lookbehind": Field(Use.NO_EFFECT, 10),
    "target_lookbehind": Field(Use.NO_EFFECT, 10),
    "is_assistant": Field(Use.NO_EFFECT, False),
    # Caches and compilation: Outrider has its own.
    "use_cache": Field(Use.NO_EFFECT, True),
    "cache_implementation": Field(Use.NO_EFFECT),
    "cache_config": Field(Use.NO_EFFECT),
    "max_cache_len": Field(Use.NO_EFFECT),
    "return_legacy_cache": Field(Use.NO_EFFECT),
    "compile_config": Field(Use.NO_EFFECT),
    "disable_compile": Field(Use.NO_EFFECT, False),
    "continuous_batching_config": Field(Use.NO_EFFECT),
    "low_memory": Field(Use.NO_EFFECT),
    "prefill_chunk_size": Field(Use.NO_EFFECT),
    # Texts that begin from nothing, encoder-decoders.
    "bos_token_id": Field(Use.OPTION, note="the prompt of outrider.generate without inputs"),
    "decoder_start_token_id": Field(Use.NO_EFFECT),
}

METADATA = frozenset({"transformers_version", "_from_model_config"})
"""Fields that say where a configuration comes from."""


def effective(config: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """Return the fields that are set to another value than the one that changes nothing."""
    return {
        name: value
        for name, value in config.items()
        if value is not None
        and not name.startswith("_")
        and name not in METADATA
        and (name not in FIELDS or value != FIELDS[name].default)
    }


def refused(config: Mapping[str, JsonValue]) -> dict[str, str]:
    """Return the fields that are set and not followed, each with a hint."""
    found: dict[str, str] = {}
    for name in effective(config):
        field = FIELDS.get(name)
        if field is None:
            found[name] = "Outrider does not know this field"
        elif field.use is Use.REFUSED:
            found[name] = field.note
    if "penalty_alpha" in found and config.get("penalty_alpha") == 0:
        del found["penalty_alpha"]
    return found


def unfollowed(config: Mapping[str, JsonValue], guided: bool) -> list[str]:
    """Return the fields of the configuration of a model that `load` does not follow.

    Those that are chosen when a model is loaded are left to the user, who has chosen guidance if
    the model is `guided`.
    """
    later = [name for name in effective(config) if name in FIELDS]
    later = [name for name in later if FIELDS[name].use is Use.LOADING and not guided]
    return [*refused(config), *later]
