"""Lines that split in many ways, drawn from snippets with a fixed seed."""

import random


def _snippets(*lines: str) -> tuple[str, ...]:
    return tuple(snippet for line in lines for snippet in line.split(" "))


_WORDS = _snippets(
    "The the quick brown fox isn't we've I'LL they'RE it'd don'T o'clock 'stuff x'Tool 'llama",
    "naïve café façade camelCase HTMLParser XMLHttpRequest snake_case SHOUTING Title-Case",
    "École ÉCOLE éÉe straße ǅ ſs Привет МИР Ελλάδα ΑΘΗΝΑ שלום مرحبا नमस्ते হ্যালো สวัสดี ខ្មែរ",
    "မြန်မာ ລາວ 你好世界 漢字 こんにちは カタカナ ｶﾀ 한국어 ㄱㄴ ㄅㄆ 𠀀𠮷 𝒜𝓑 ａＢ ª º ʰ ⅳ ㊀",
    "e\u0301 n\u0303o \u0301x a\u0300\u0301b क्षि IMGIMGABCZ <sentinel:12> ℵ ℝ Ⅷ ǆ ꙁ ꟸ 一 龥",
    "鿿 㐀 \uf900 ー ゛ ・ 々 〆",
)
_NUMBERS = _snippets(
    "0 1 12 123 1234 12345 123456 1234567 3.14 1,000,000 0xFF 1e-9 ٣٤٥٦ ½ ² 12３４ x1y22z333",
)
_MARKS = _snippets(
    ". , ! ? ... :: -> => == != += // /* */ # @ $ $$ % ^ & * ( ) [ ] { } | || ~ ` ``` ' '' \"",
    "\\ _ __ < > <= >>> -- — – … “q” ‘q’ « » ¿ ¡ 。 ， 、 ！ ？ ： ； ～ 《》 「」 ・ ، ۔ । €",
    "£ ¥ © ™ ∑ √ ≠ ± × 🙂 👍🏽 \U0001f468\u200d\U0001f469\u200d\U0001f467 🇩🇪 \u2764\ufe0f ✓ →",
    "☃ \u200b \ufeff \xad \u202e \u061c",
)
_SPACES = (
    *(" ", "  ", "   ", "    ", " " * 9, "\t", "\t\t", "\n", "\n\n", "\n\n\n", "\r\n", "\r", " \n"),
    *("\n ", " \n \n  ", "\t \t", "\u00a0", "\u3000", "\u2003 ", "\u2028", "\u0085", "\v", "\f"),
)
_CONTROLS = ("\x01", "\x07", "\x1b[0m", "\x1c", "\x7f", "\x9f", "\ue000", "\ufffd", "\U0010fffd")
_CODE = (
    "def f(x):\n    return x**2  # ok\n",
    "for (int i=0;i<10;++i) { s += a[i]; }\n\n",
    "https://a.example/b?c=d&e=%20#f",
    '{"key": [1, 2.5, null], "b": "\\u00e9"}',
    "\t\tif (!ok)\r\n\t\t\tthrow 42;",
    "<b>bold</b><br/>",
    "SELECT * FROM t WHERE a='it''s';",
)


def draw_lines(count: int, marks: tuple[str, ...] = (), seed: int = 7) -> list[str]:
    """Return lines of words, numbers, marks, code and white space.

    Args:
        count: how many.
        marks: texts of special tokens to mix in.
        seed: of the draws.
    """
    draw = random.Random(seed)
    return [_line(draw, marks) for _ in range(count)]


def _line(draw: random.Random, marks: tuple[str, ...]) -> str:
    kinds = (_WORDS, _NUMBERS, _MARKS, _SPACES, _CONTROLS, _CODE, marks or _WORDS)
    dense = draw.random() < 0.4
    parts = []
    for _ in range(draw.randint(1, 14)):
        kind = draw.choices(kinds, (8, 3, 4, 4, 0.5, 0.7, 0.7))[0]
        parts.append(draw.choice(kind))
        if not dense and draw.random() < 0.6:
            parts.append(" ")
    return "".join(parts)
