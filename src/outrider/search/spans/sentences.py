"""Sentences of plain text, by rules.

An own splitter: nltk needs data files, pysbd is not maintained, and both may change or normalise
the text. Here only places between sentences are found, so that spans are parts of the text.
"""

import re

_END = re.compile(
    r"""(?:(?<![.!?\u2026])[.!?\u2026]++["'\u2019\u201d)\]]*+(?=\s|$))   # an end mark with quotes
      |(?:[\u3002\uff01\uff1f]+["'\u2019\u201d\u300d\u300f)\]]*)   # of scripts without spaces
      |(?:\n[^\S\n]*\n)                                # a blank line""",
    re.VERBOSE,
)
_NEXT = re.compile(r"""\s+["'\u2018\u201c(\[]*(\w)""")
_LONGEST = 32
"""Letters before an end mark in which an abbreviation lies: a search in all text before it
would take quadratic time."""
_WORD = re.compile(r"([\w.]+)$")
_INITIALS = re.compile(r"[A-Z]|[A-Za-z](?:\.[A-Za-z])+")
_SHORT = re.compile(
    r"""mr|mrs|ms|dr|prof|st|mt|rev|hon|gen|col|capt|lt|sgt|gov|sen|rep|jr|sr|vs|etc|cf|al|no|nos|vol
    |figs?|eq|pp?|eds?|ch|sec|approx|dept|univ|inc|ltd|co|corp|messrs|mme|mlle|viz|ca
    |jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec""",
    re.VERBOSE | re.IGNORECASE,
)


def sentences_of(text: str) -> list[tuple[int, int]]:
    """Return the beginning and the end of each sentence, without the space around it.

    A full stop after an abbreviation, an initial, or before a small letter is no end; a blank line
    always is.
    """
    found: list[tuple[int, int]] = []
    begin = 0
    for match in _END.finditer(text):
        if _ends(text, match):
            _add(found, text, begin, match.end())
            begin = match.end()
    _add(found, text, begin, len(text))
    return found


def _ends(text: str, match: re.Match[str]) -> bool:
    mark = match.group()
    follows = _NEXT.match(text, match.end())
    small = follows is not None and follows.group(1).islower()
    if mark[0] in "!?":
        # What a person says may end within the sentence: "No!" he said.
        return not (small and mark[-1] not in "!?")
    if mark[0] not in ".\u2026":
        return True
    if small or follows is None or mark != ".":
        return not small
    before = _WORD.search(text[max(match.start() - _LONGEST, 0) : match.start()])
    word = "" if before is None else before.group(1)
    return word == "I" or not (_INITIALS.fullmatch(word) or _SHORT.fullmatch(word))


def _add(found: list[tuple[int, int]], text: str, begin: int, end: int) -> None:
    piece = text[begin:end]
    if piece.strip():
        space = len(piece) - len(piece.lstrip())
        found.append((begin + space, begin + space + len(piece.strip())))
