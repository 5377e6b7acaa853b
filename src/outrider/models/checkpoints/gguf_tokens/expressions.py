r"""Regular expressions that split text before byte-level BPE, by the name in `tokenizer.ggml.pre`.

The expressions of one name run one after the other. Each splits the pieces of the one before:
matches become pieces, and so does the text between them. They are written for Oniguruma, which
`tokenizers` uses, and split as llama.cpp splits. llama.cpp reads some classes in its own way:

- `\d` and `[0-9]` are ASCII digits; letter classes such as `\p{Lu}` are all letters.
- A white-space character is in no class of literal characters, such as U+3000 in a range.
- Digits that are counted from the right (`afmoe`, `tiny_aya`) stay with the text in front of them.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Splitting:
    """How text is split, and defaults that belong to the name.

    Attributes:
        expressions: they run one after the other.
        ignore_merges: a piece that is a token becomes this token, without merges.
        add_bos: whether BOS opens a text if the file does not say.
    """

    expressions: tuple[str, ...]
    ignore_merges: bool = False
    add_bos: bool = False


_CONTRACTION = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_OTHER = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_END_OF_SPACE = r"\s+(?!\S)|\s+"
_SPACE = rf"\s*[\r\n]+|{_END_OF_SPACE}"
_DIGIT = r"\p{N}"
_THREE_DIGITS = r"\p{N}{1,3}"

_GPT2 = rf"'s|'t|'re|'ve|'m|'ll|'d| ?\p{{L}}+| ?\p{{N}}+| ?[^\s\p{{L}}\p{{N}}]+|{_END_OF_SPACE}"
_LLAMA3 = rf"{_CONTRACTION}|{_WORD}|{_THREE_DIGITS}|{_OTHER}|{_SPACE}"
_QWEN2 = rf"{_CONTRACTION}|{_WORD}|{_DIGIT}|{_OTHER}|{_SPACE}"

_CJK = r"[\x{4E00}-\x{9FA5}\x{3040}-\x{309F}\x{30A0}-\x{30FF}]+"
_CJK_AND_HANGUL = (
    r"[[\x{4E00}-\x{9FA5}\x{800}-\x{4E00}\x{AC00}-\x{D7FF}]&&[^\s]]+"  # U+2000 is in the range
)
_ASCII_MARK = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]"""
_MARKED = rf"{_ASCII_MARK}[A-Za-z]+|[^\r\n\p{{L}}\p{{P}}\p{{S}}]?[\p{{L}}\p{{M}}]+"
_DEEPSEEK3 = rf"{_MARKED}| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_SPACE}"

_CASED_LETTERS = (
    r"A-Za-z\x{B5}\x{C0}-\x{D6}\x{D8}-\x{F6}\x{F8}-\x{1BA}\x{1BC}-\x{1BF}\x{1C4}-\x{293}"
    r"\x{295}-\x{2AF}\x{370}-\x{373}\x{376}\x{377}\x{37B}-\x{37D}\x{37F}\x{386}\x{388}-\x{38A}"
    r"\x{38C}\x{38E}-\x{3A1}\x{3A3}-\x{3F5}\x{3F7}-\x{481}\x{48A}-\x{52F}\x{531}-\x{556}"
    r"\x{10A0}-\x{10C5}\x{13A0}-\x{13F5}\x{13F8}-\x{13FD}\x{1C90}-\x{1CBA}\x{1CBD}-\x{1CBF}"
    r"\x{1D00}-\x{1D2B}\x{1D6B}-\x{1D77}\x{1D79}-\x{1D9A}\x{1E00}-\x{1F15}\x{1F18}-\x{1F1D}"
    r"\x{1F20}-\x{1F45}\x{1F48}-\x{1F4D}\x{1F50}-\x{1F57}\x{1F59}\x{1F5B}\x{1F5D}"
    r"\x{1F5F}-\x{1F7D}\x{1F80}-\x{1FB4}\x{1FB6}-\x{1FBC}\x{1FBE}\x{1FC2}-\x{1FC4}"
    r"\x{1FC6}-\x{1FCC}\x{1FD0}-\x{1FD3}\x{1FD6}-\x{1FDB}\x{1FE0}-\x{1FEC}\x{1FF2}-\x{1FF4}"
    r"\x{1FF6}-\x{1FFC}\x{2102}\x{2107}\x{210A}-\x{2113}\x{2115}\x{2119}-\x{211D}\x{2124}"
    r"\x{2126}\x{2128}\x{212A}-\x{212D}\x{212F}-\x{2134}\x{2139}\x{213C}-\x{213F}"
    r"\x{2145}-\x{2149}\x{214E}\x{2183}\x{2184}\x{2C00}-\x{2C7B}\x{2C7E}-\x{2CE4}"
    r"\x{2CEB}-\x{2CEE}\x{2CF2}\x{2CF3}\x{A640}-\x{A66D}\x{A680}-\x{A69B}\x{A722}-\x{A76F}"
    r"\x{A771}-\x{A787}\x{A78B}-\x{A78E}\x{AB70}-\x{ABBF}\x{FB00}-\x{FB06}\x{FB13}-\x{FB17}"
    r"\x{FF21}-\x{FF3A}\x{FF41}-\x{FF5A}\x{10400}-\x{1044F}\x{104B0}-\x{104D3}"
    r"\x{104D8}-\x{104FB}\x{10C80}-\x{10CB2}\x{10CC0}-\x{10CF2}\x{118A0}-\x{118DF}"
    r"\x{1E900}-\x{1E943}"
)
_DEEPSEEK_LLM = (
    r"[\r\n]",
    rf"\s?[{_CASED_LETTERS}]+",
    r"\s?[!-/:-~！-／：-～‘-‟、-。]+",
    r"\s+\z",
    _CJK_AND_HANGUL,
    r"\p{N}+",
)

_UPPER, _LOWER = r"[\p{L}&&[^a-z]]", r"[\p{L}&&[^A-Z]]"
_PREFIX = r"[^\r\n\p{L}\p{N}]?"
_OTHER_OR_SLASH = r" ?[^\s\p{L}\p{N}]+[\r\n/]*"


def _by_case(digits: str, upper: str = _UPPER, lower: str = _LOWER, end: str = "") -> str:
    """Return an expression that splits words where lower case changes to upper case."""
    words = rf"{_PREFIX}{upper}*{lower}+{end}|{_PREFIX}{upper}+{lower}*{end}"
    return rf"{words}|{digits}|{_OTHER_OR_SLASH}|{_SPACE}"


_ENDING = rf"{_CONTRACTION}?"
_MARKED_UPPER, _MARKED_LOWER = r"[\p{L}\p{M}&&[^a-z]]", r"[\p{L}\p{M}&&[^A-Z]]"
_MARKED_WORD = rf"{_PREFIX}[\p{{L}}\p{{M}}]+{_ENDING}"
_FROM_THE_RIGHT = (
    r"(?<=\p{N})\p{N}{3}|"
    r"(?<![^\p{N}])[^\p{N}]*\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))"
)
_SENTENCE_MARKS = r" ?[^(\s|.,!?…。，、।۔،)]+"
_HAN = (
    r"\x{4E00}-\x{9FFF}\x{3400}-\x{4DBF}\x{20000}-\x{2A6DF}\x{2A700}-\x{2EBEF}"
    r"\x{F900}-\x{FAFF}\x{2F800}-\x{2FA1F}"
)
_KIMI = rf"[{_HAN}]+|{_PREFIX}[\p{{L}}&&[^{_HAN}]]+{_ENDING}|{_THREE_DIGITS}|{_OTHER}|{_SPACE}"
_AFMOE_SCRIPTS = (
    r"[\x{4E00}-\x{9FFF}\x{3400}-\x{4DBF}\x{8C48}-\x{FAFF}\x{3040}-\x{309F}\x{30A0}-\x{30FF}"
    r"\x{FF65}-\x{FF9F}\x{2F00}-\x{2FDF}\x{E40}-\x{E7F}\x{E80}-\x{EFF}\x{1780}-\x{17FF}"
    r"\x{1000}-\x{109F}\x{AA60}-\x{AA7F}\x{A9E0}-\x{A9FF}\x{AC00}-\x{D7AF}\x{1100}-\x{11FF}]+"
)
_YOUTU_SCRIPTS = (
    "[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|" + _CJK  # one expression of four scripts
)
_JAIS2 = "|".join(
    [
        rf"{_CONTRACTION}|{_WORD}|{_THREE_DIGITS}|{_OTHER}|\s*[\r\n]+",
        *(rf"\s{{{count}}}(?!\S)" for count in (512, 256, 128, 64, 32, 16, 8, 4)),
        r"\s{1,2}(?!\S)|\s{1}",
    ]
)
_EXAONE_MOE = (
    rf"{_CONTRACTION}|{_PREFIX}(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+|{_DIGIT}|"
    rf" ?[^\s\p{{L}}\p{{N}}]+[\r\n/]?|\s*[\r\n]|{_END_OF_SPACE}"
)
_BAILING = (
    rf"'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|{_WORD}|{_DIGIT}|{_OTHER}|\s*[\r\n]|"
    rf"{_END_OF_SPACE}"
)
_QWEN35 = (
    rf"{_CONTRACTION}|{_PREFIX}[\p{{L}}\p{{M}}]+|{_DIGIT}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|"
    rf"{_SPACE}"
)
_FALCON = r"[\p{P}\$\+<=>\^~\|`]+"
_DEFAULT = r"[\p{P}\$\+<=>\^~\|]+"
_HUNDREDS = r"[0-9][0-9][0-9]"

_WITH_BOS = Splitting(expressions=(_LLAMA3,), ignore_merges=True, add_bos=True)

_GROUPS: dict[str, Splitting] = {
    "default": Splitting(expressions=(_DEFAULT, _GPT2, r"\p{N}+", _HUNDREDS)),
    "llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano": _WITH_BOS,
    "dbrx smaug-bpe chatglm-bpe": Splitting(expressions=(_LLAMA3,)),
    "glm4 glm5": Splitting(expressions=(_LLAMA3,), ignore_merges=True),
    "qwen2 deepseek-r1-qwen kormo f2llmv2 megrez stablelm2 hunyuan solar-open grok-2": Splitting(
        expressions=(_QWEN2,)
    ),
    "qwen35": Splitting(expressions=(_QWEN35,)),
    "gpt-2 phi-2 jina-es jina-de jina-v1-en jina-v2-es jina-v2-de jina-v2-code roberta-bpe "
    "gigachat a.x-4.0 mellum modern-bert mpt olmo jais trillion granite-docling exaone4": Splitting(
        expressions=(_GPT2,)
    ),
    "smollm starcoder refact command-r codeshell exaone minerva-7b mellum2": Splitting(
        expressions=(_DIGIT, _GPT2)
    ),
    "falcon": Splitting(expressions=(_FALCON, _GPT2, _HUNDREDS)),
    "deepseek-llm": Splitting(expressions=_DEEPSEEK_LLM),
    "deepseek-coder": Splitting(
        expressions=(r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _CJK_AND_HANGUL, _DIGIT)
    ),
    "deepseek-v3 hunyuan-dense joyai-llm hy_v4": Splitting(
        expressions=(_THREE_DIGITS, _CJK, _DEEPSEEK3)
    ),
    "spark2_5": Splitting(
        expressions=(
            _THREE_DIGITS,
            _CJK,
            rf"{_MARKED}| ?[\p{{P}}\p{{S}}]+|[\r\n]|{_END_OF_SPACE}",
            _DIGIT,
        )
    ),
    "tekken": Splitting(expressions=(_by_case(_DIGIT),), ignore_merges=True, add_bos=True),
    "gpt-4o llama4 kanana2 talkie minimax-m2": Splitting(
        expressions=(_by_case(_THREE_DIGITS, end=_ENDING),)
    ),
    "granite-embed-multi-97m": Splitting(
        expressions=(_by_case(_THREE_DIGITS, _MARKED_UPPER, _MARKED_LOWER, _ENDING),),
        ignore_merges=True,
    ),
    "tiny_aya cohere2moe": Splitting(
        expressions=(
            _FROM_THE_RIGHT,
            rf"{_MARKED_WORD}|{_THREE_DIGITS}|{_OTHER_OR_SLASH}|{_SPACE}",
        )
    ),
    "youtu": Splitting(
        expressions=(_YOUTU_SCRIPTS, rf"{_MARKED_WORD}|{_DIGIT}|{_OTHER_OR_SLASH}|{_SPACE}"),
        ignore_merges=True,
    ),
    "poro-chat bloom gpt3-finnish": Splitting(expressions=(_SENTENCE_MARKS,)),
    "viking": Splitting(expressions=(_SENTENCE_MARKS, _DIGIT)),
    "chameleon": Splitting(
        expressions=(
            r"<sentinel:[0-9]+>",
            r"(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z",
            r"([\t\n]|    |  )",
            _DIGIT,
            r"[\p{P}!-/:-@\[-`{-~]",
            _GPT2,
        ),
        add_bos=True,
    ),
    "superbpe": Splitting(expressions=(r"\p{N}+", r"(?=([0-9]{3})+(?![0-9]))")),
    "bailingmoe bailingmoe2 llada-moe": Splitting(expressions=(_BAILING,)),
    "seed-coder": Splitting(
        expressions=(rf"{_CONTRACTION}|{_WORD}|{_DIGIT}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{_SPACE}",)
    ),
    "ufakzeka": Splitting(expressions=(rf"{_WORD}|{_DIGIT}|{_OTHER}|{_SPACE}",)),
    "kimi-k2": Splitting(expressions=(_KIMI,)),
    "afmoe": Splitting(expressions=(_FROM_THE_RIGHT, _AFMOE_SCRIPTS, _DEEPSEEK3)),
    "laguna": Splitting(expressions=(r"[^\n]+|\n+", _QWEN2)),
    "minicpm5": Splitting(
        expressions=(
            _THREE_DIGITS,
            rf"{_CONTRACTION}|{_WORD}|\p{{N}}+|{_OTHER}|{_SPACE}",
        ),
        ignore_merges=True,
    ),
    "jais-2": Splitting(expressions=(_JAIS2,)),
    "exaone-moe": Splitting(expressions=(_EXAONE_MOE,)),
}

SPLITTINGS: dict[str, Splitting] = {
    name: splitting for names, splitting in _GROUPS.items() for name in names.split()
}
"""By the name in the file. llama.cpp refuses unknown names too."""
