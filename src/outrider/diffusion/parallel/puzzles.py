"""Puzzles: Latin squares and sudokus of four rows."""

import itertools
import random

from outrider.diffusion.parallel.item import Item, Task
from outrider.diffusion.parallel.words import LETTERS

Grid = tuple[tuple[int, ...], ...]
SIDE = 4
BLANKS = 4
"""Empty cells of a sudoku: twelve of sixteen are given, as in ParallelBench."""
_PERMUTATIONS = tuple(itertools.permutations(range(SIDE)))


def is_latin(rows: tuple[tuple[str, ...], ...], symbols: tuple[str, ...]) -> bool:
    """Whether every row and every column is the set of symbols."""
    if len(rows) != len(symbols) or any(len(row) != len(symbols) for row in rows):
        return False
    wanted = set(symbols)
    return all(set(row) == wanted for row in (*rows, *zip(*rows, strict=True)))


def is_sudoku(rows: tuple[tuple[str, ...], ...], symbols: tuple[str, ...]) -> bool:
    """Whether the rows are a Latin square whose four corners of two by two are the set, too."""
    if not is_latin(rows, symbols):
        return False
    corners = (
        {rows[top + down][left + right] for down in (0, 1) for right in (0, 1)}
        for top in (0, 2)
        for left in (0, 2)
    )
    return all(corner == set(symbols) for corner in corners)


def latin_squares() -> list[Grid]:
    """Return the 576 Latin squares of four rows."""
    found: list[Grid] = [()]
    for _ in range(SIDE):
        found = [
            (*rows, row)
            for rows in found
            for row in _PERMUTATIONS
            if all(a != b for other in rows for a, b in zip(other, row, strict=True))
        ]
    return found


_LATIN = latin_squares()
_DIGITS = ("1", "2", "3", "4")
_SUDOKU = [
    grid
    for grid in _LATIN
    if is_sudoku(tuple(tuple(_DIGITS[i] for i in row) for row in grid), _DIGITS)
]


def read_letters(text: str) -> tuple[tuple[str, ...], ...]:
    """Return the rows of a square of letters with spaces."""
    return tuple(tuple(row.split()) for row in text.strip().split("\n"))


def make_latin(rng: random.Random, split: str) -> Item:
    """Draw four letters of which a Latin square is to be made."""
    symbols = tuple(rng.sample(LETTERS, SIDE))

    def answer(own: random.Random) -> str:
        grid = own.choice(_LATIN)
        return "\n".join("".join(f" {symbols[i]}" for i in row) for row in grid)

    return Item(
        prompt=f"Write a Latin square with the letters {' '.join(symbols)}.",
        key="".join(symbols),
        score=lambda text: float(is_latin(read_letters(text), symbols)),
        answer=answer,
    )


def make_sudoku(rng: random.Random, split: str) -> Item:
    """Draw a sudoku with twelve given cells; empty cells are written 0."""
    grid = rng.choice(_SUDOKU)
    cells = [_DIGITS[i] for row in grid for i in row]
    empty = rng.sample(range(SIDE * SIDE), BLANKS)
    shown = ["0" if at in empty else cell for at, cell in enumerate(cells)]
    fitting = [
        other
        for other in ([_DIGITS[i] for row in one for i in row] for one in _SUDOKU)
        if all(cell in ("0", own) for cell, own in zip(shown, other, strict=True))
    ]

    def score(text: str) -> float:
        rows = tuple(tuple(row) for row in text.strip().split("\n"))
        if not is_sudoku(rows, _DIGITS):
            return 0.0
        own = [cell for row in rows for cell in row]
        return float(all(cell in ("0", mine) for cell, mine in zip(shown, own, strict=True)))

    return Item(
        prompt=f"Solve the sudoku.\n{_digit_rows(shown)}",
        key="".join(shown),
        score=score,
        answer=lambda own: _digit_rows(own.choice(fitting)),
    )


def _digit_rows(cells: list[str]) -> str:
    return "\n".join("".join(cells[at : at + SIDE]) for at in range(0, SIDE * SIDE, SIDE))


PUZZLE_TASKS = (
    Task(name="latin-square", group="puzzles", slot=24, make=make_latin),
    Task(name="sudoku", group="puzzles", slot=24, make=make_sudoku),
)
