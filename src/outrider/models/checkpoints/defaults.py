"""Reads sampling defaults and end tokens from a checkpoint's files."""

from collections.abc import Mapping

from outrider.core.values import JsonValue

_WHEN_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "typical_p")
_ALWAYS = ("repetition_penalty", "min_new_tokens", "max_new_tokens")


def end_ids(
    generation: Mapping[str, JsonValue], config: Mapping[str, JsonValue]
) -> tuple[int, ...]:
    """Return the end tokens: `eos_token_id`, one or a list, of generation_config.json, else of
    config.json.
    """
    found = generation.get("eos_token_id")
    if found is None:
        found = config.get("eos_token_id")
    if found is None:
        return ()
    return (int(found),) if isinstance(found, int) else tuple(int(token) for token in found)


def recommended(generation: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """Return the fields that generation_config.json sets, without its metadata."""
    return {
        key: value
        for key, value in generation.items()
        if not key.startswith("_") and key != "transformers_version" and value is not None
    }


def sampling_defaults(generation: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """Return the options of `SamplingParams` that generation_config.json sets.

    As in `transformers`, warps apply only if `do_sample` is true; the default temperature is then
    1. Without `do_sample` decoding is greedy. `suppress_tokens` and single tokens among
    `bad_words_ids` (often image marks) are never chosen; end tokens stay allowed.
    """
    names = _ALWAYS
    defaults: dict[str, JsonValue] = {}
    if generation.get("do_sample"):
        names = (*_WHEN_SAMPLING, *_ALWAYS)
        defaults["temperature"] = 1.0
    given = {name: generation[name] for name in names if generation.get(name) is not None}
    if stop := generation.get("stop_strings"):
        given["stop"] = stop
    if banned := _banned(generation):
        given["banned_tokens"] = banned
    return defaults | given


def _banned(generation: Mapping[str, JsonValue]) -> tuple[int, ...]:
    """Return ids that are never chosen. Words of several tokens are ignored; -1 means none."""
    words = generation.get("bad_words_ids") or ()
    found = {int(word[0]) for word in words if len(word) == 1} - set(end_ids(generation, {}))
    found |= set(map(int, generation.get("suppress_tokens") or ()))
    return tuple(sorted(token for token in found if token >= 0))
