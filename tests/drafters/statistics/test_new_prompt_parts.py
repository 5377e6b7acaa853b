from dataclasses import replace

from outrider.drafters import Aded, Lookahead, TokenRecycling
from outrider.drafters.statistics.new_prompt_parts import unread
from tests.drafters.statistics.row_rigs import request


def test_what_is_new_of_a_prompt() -> None:
    one, two = request((1, 2, 3, 4)), request((5, 6))
    again = replace(one, output=[])
    assert unread([one, two, again], [(), (), ()], 2) == [(1, 2, 3, 4), (5, 6), ()]
    assert unread([one], [(1, 2)], 1) == [(2, 3, 4)]
    assert unread([one], [(1, 2)], 5) == [(1, 2, 3, 4)]
    assert unread([one], [(1, 3)], 1) == [(1, 2, 3, 4)]
    assert unread([one], [(1, 2, 3, 4)], 1) == [(4,)]


def test_samples_and_turns_read_a_prompt_once() -> None:
    """Trigrams count occurrences, so what is read twice would show."""
    drafter = Aded()
    first = request((1, 2, 3))
    states = drafter.begin([first, replace(first, output=[])])
    assert drafter.memory.after(1, 2) == {3: 0.04}
    drafter.begin([request((1, 2, 3, 4))], states[:1])
    assert drafter.memory.after(1, 2) == {3: 0.04} and drafter.memory.after(2, 3) == {4: 0.04}
    pool, matrix = Lookahead(ngram=3), TokenRecycling()
    for other in (pool, matrix):
        old = other.begin([first])
        other.begin([request((1, 2, 3, 4))], old)
    assert pool.memory.after(1) == [(2, 3)] and pool.memory.after(2) == [(3, 4)]
    assert matrix.memory.successors(3) == [4]
