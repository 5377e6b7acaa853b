"""The tokens after which generation ends, as llama.cpp finds them."""

from collections.abc import Mapping

from outrider.core.values import JsonValue
from outrider.models.checkpoints.fields import Field, check_fields

END_TEXTS = frozenset(
    [
        "<|eot_id|>",
        "<|im_end|>",
        "<|end|>",
        "<|return|>",
        "<|call|>",
        "<|flush|>",
        "<|calls|>",
        "<end_of_turn>",
        "<|endoftext|>",
        "</s>",
        "<|eom_id|>",
        "<EOT>",
        "_<EOT>",
        "[EOT]",
        "[EOS]",
        "<|end_of_text|>",
        "<end_of_utterance>",
        "<eos>",
        "<turn|>",
        "<|tool_response>",
        "<｜end▁of▁sentence｜>",
        "[e~[",
    ]
)
"""Texts of tokens that end a turn or a text, whatever the settings say."""

_NAMES = ("eos", "eot", "eom", "fim_pad", "fim_rep", "fim_sep")
_DEFAULTS = {"gpt2": 11, "llama": 2}
"""The end token of files that name none, by the kind of tokenizer."""

_NORMAL_END = (
    (
        "<|end|>",
        ({"<|return|>", "<|call|>"}, {"<|call|>", "<|flush|>"}, {"<|calls|>", "<|flush|>"}),
    ),
    ("</s>", ({"<|tool_response>"}, {"<|plamo:eos|>"})),
)
"""Texts that end nothing beside certain other ends: there they end a part of a turn."""


def end_tokens(file: str, metadata: Mapping[str, JsonValue], *, vocabulary: int) -> list[int]:
    """Return the ids after which generation ends, that of EOS first.

    Args:
        file: the file in messages.
        metadata: its settings.
        vocabulary: number of ids.

    Raises:
        CheckpointError: an id is not in the vocabulary.
    """
    fields = tuple(
        Field(f"tokenizer.ggml.{name}_token_id", ("whole number",), least=0, most=vocabulary - 1)
        for name in _NAMES
    )
    check_fields(file, metadata, fields)
    found = [metadata.get(field.name) for field in fields]
    tokens = metadata.get("tokenizer.ggml.tokens")
    known = dict(zip(tokens, range(vocabulary), strict=False)) if isinstance(tokens, list) else {}
    if found[0] is None:
        found[0] = _default(metadata, len(known))
    found += sorted(known[text] for text in _ends(set(END_TEXTS) & known.keys()))
    return list(dict.fromkeys(i for i in found if i is not None))


def _default(metadata: Mapping[str, JsonValue], count: int) -> int | None:
    default = _DEFAULTS.get(str(metadata.get("tokenizer.ggml.model")), count)
    return default if default < count else None


def _ends(texts: set[str]) -> set[str]:
    for text, others in _NORMAL_END:
        if any(other <= texts for other in others):
            texts = texts - {text}
    return texts
