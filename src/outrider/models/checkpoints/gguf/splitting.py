"""How texts are cut before byte pairs are merged, by the name in `tokenizer.ggml.pre`.

The expressions are those of the models' own tokenizers, in the form that llama.cpp applies: one
after the other, each to the pieces that the earlier ones have left. What matches is a piece, and so
is what lies between.
"""

from dataclasses import dataclass

_CONTRACTIONS = "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_SYMBOLS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
_UPPER, _LOWER = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}", r"\p{Ll}\p{Lm}\p{Lo}\p{M}"
_CASED = (
    rf"[^\r\n\p{{L}}\p{{N}}]?[{_UPPER}]*[{_LOWER}]+",
    rf"[^\r\n\p{{L}}\p{{N}}]?[{_UPPER}]+[{_LOWER}]*",
)
_SLASHED = rf" ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"

_LLAMA3 = (rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}{{1,3}}|{_SYMBOLS}|{_SPACES}",)
_QWEN2 = (rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}|{_SYMBOLS}|{_SPACES}",)
_DIGITS = (r"\p{N}", _GPT2)
_TEKKEN = (rf"{_CASED[0]}|{_CASED[1]}|\p{{N}}|{_SLASHED}",)
_GPT4O = (rf"{_CASED[0]}{_CONTRACTIONS}?|{_CASED[1]}{_CONTRACTIONS}?|\p{{N}}{{1,3}}|{_SLASHED}",)
_DEEPSEEK3 = (
    r"\p{N}{1,3}",
    "[一-龥\u3040-ゟ゠-ヿ]+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|"
    rf" ?[\p{{P}}\p{{S}}]+[\r\n]*|{_SPACES}",
)
_DEFAULT = (r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Splitting:
    """One way to cut texts.

    Attributes:
        patterns: regular expressions, applied one after the other.
        whole_words: a piece that is a token is not built from merges.
        adds_bos: a text begins with BOS unless the file says otherwise.
    """

    patterns: tuple[str, ...]
    whole_words: bool = False
    adds_bos: bool = False


def _named(names: str, splitting: Splitting) -> dict[str, Splitting]:
    return dict.fromkeys(names.split(), splitting)


SPLITTINGS: dict[str, Splitting] = {
    **_named("default", Splitting(patterns=_DEFAULT)),
    **_named(
        "llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2",
        Splitting(patterns=_LLAMA3, whole_words=True, adds_bos=True),
    ),
    **_named("dbrx smaug-bpe glm4 chatglm-bpe", Splitting(patterns=_LLAMA3)),
    **_named("qwen2 deepseek-r1-qwen kormo megrez stablelm2 hunyuan", Splitting(patterns=_QWEN2)),
    **_named(
        "smollm starcoder refact command-r codeshell exaone minerva-7b",
        Splitting(patterns=_DIGITS),
    ),
    **_named(
        "gpt-2 phi-2 mpt olmo jais trillion gigachat a.x-4.0 mellum exaone4",
        Splitting(patterns=(_GPT2,)),
    ),
    **_named("tekken", Splitting(patterns=_TEKKEN, whole_words=True, adds_bos=True)),
    **_named("gpt-4o llama4 kanana2", Splitting(patterns=_GPT4O)),
    **_named("deepseek-v3 hunyuan-dense", Splitting(patterns=_DEEPSEEK3)),
}
"""The known names."""
