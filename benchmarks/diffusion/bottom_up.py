"""The check of `constraints/cfg/emptiness.py` as its paper has it: items from the terminals
upwards, whatever stands before them. It decides the same and serves as the baseline."""

from collections import defaultdict

from outrider.constraints.cfg.grammar import NONE, Grammar
from outrider.constraints.cfg.pattern import Lexing, Pattern


def completable_bottom_up(grammar: Grammar, pattern: Pattern) -> tuple[bool, int]:
    """Return whether a pattern can be completed, and how many items were found."""
    if grammar.start is None:
        return False, 0
    terminals, lexing = len(grammar.terminals), Lexing(pattern, grammar.terminals)
    alone, as_left, as_right = defaultdict(list), defaultdict(list), defaultdict(list)
    for head, sides in enumerate(grammar.rules, terminals):
        for left, right in sides:
            if right == NONE:
                alone[left].append(head)
            else:
                as_left[left].append((head, right))
                as_right[right].append((head, left))
    last = len(pattern.text)
    todo = [
        (place, symbol, place)
        for place in range(last + 1)
        for symbol in range(terminals, grammar.size)
        if grammar.nullable[symbol]
    ]
    todo += [
        (place, terminal, end)
        for place in range(last + 1)
        for terminal in range(terminals)
        for end in lexing.ends(place, terminal)
    ]
    seen = set[tuple[int, int, int]]()
    ends, begins = defaultdict(list), defaultdict(list)
    while todo:
        item = todo.pop()
        if item in seen:
            continue
        seen.add(item)
        begin, symbol, end = item
        if item == (0, grammar.start, last):
            return True, len(seen)
        ends[begin, symbol].append(end)
        begins[symbol, end].append(begin)
        todo += [(begin, head, end) for head in alone[symbol]]
        for head, right in as_left[symbol]:
            todo += [(begin, head, after) for after in ends[end, right]]
        for head, left in as_right[symbol]:
            todo += [(before, head, end) for before in begins[left, begin]]
    return False, len(seen)
