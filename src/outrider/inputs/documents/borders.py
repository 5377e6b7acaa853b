"""Finds places where a text can be cut: sentence ends, line breaks, spaces, by heuristics."""

import re

SPACE, LINE, SENTENCE = 1, 2, 3
"""Quality of a cut. 0 is any other place between two characters."""

_CLOSING = "\"'”’»)\\]*_"

# Repeats are bounded: `[.]+` before a missing character takes quadratic time on a long run.
_SENTENCE = re.compile(rf"([.!?…])[{_CLOSING}]{{0,3}}(\s+)")
_WIDE = re.compile(r"[。！？｡][」』”’）〉》]{0,3}(\s*)")
_PARAGRAPH = re.compile(r"\n[^\S\n]*\n\s*")
_WHITE = re.compile(r"\s+")

_LONGEST = 6
# Abbreviations that seldom end a sentence, and single letters: initials, or the last of "e.g.".
_ABBREVIATION = re.compile(
    r"\w|mr|mrs|ms|dr|prof|rev|hon|capt|col|gen|lt|sgt|st|mt|jr|sr|vs|cf|ca|approx|nos|figs?|eqs?"
    r"|ch|vols?|pp|eds?|inc|ltd|corp|dept|est|jan|feb|mar|apr|aug|sept|oct|nov|dec|mme|mlle"
)


def borders(text: str) -> bytearray:
    """Rate a cut at each place in `text`, `[len(text) + 1]`: `SENTENCE`, `LINE`, `SPACE` or 0.

    A sentence ends at `.`, `!`, `?` or an ellipsis, closing quotes and brackets, and white space;
    or at `。！？`; or at an empty line. A full stop after an abbreviation or an initial,
    or within a number, does not end a sentence, nor does any mark before a small letter. All places
    in the white space of a border have the same rating.
    """
    marks = bytearray(len(text) + 1)
    for found in _WHITE.finditer(text):
        _mark(marks, *found.span(), LINE if "\n" in found.group() else SPACE)
    for found in _PARAGRAPH.finditer(text):
        _mark(marks, *found.span(), SENTENCE)
    for found in _WIDE.finditer(text):
        _mark(marks, *found.span(1), SENTENCE)
    for found in _SENTENCE.finditer(text):
        if _ends(text, found):
            _mark(marks, *found.span(2), SENTENCE)
    return marks


def _mark(marks: bytearray, first: int, last: int, worth: int) -> None:
    marks[first : last + 1] = bytes([worth]) * (last + 1 - first)


def _ends(text: str, found: re.Match[str]) -> bool:
    if text[found.end() : found.end() + 1].islower():
        return False
    if found.group(1) != ".":
        return True
    first = last = found.start()
    while first > 0 and last - first <= _LONGEST and text[first - 1].isalpha():
        first -= 1
    return _ABBREVIATION.fullmatch(text[first:last].lower()) is None
