"""Which facts of a bAbI story an answer rests on, by playing the story through."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

_MOVED = re.compile(r"(\w+) (?:moved|went back|went|journeyed|travelled) to the (\w+)\.")
_TOOK = re.compile(r"(\w+) (?:got|grabbed|took|picked up) the (\w+)(?: there)?\.")
_LEFT = re.compile(r"(\w+) (?:left|dropped|discarded|put down) the (\w+)(?: there)?\.")
_GAVE = re.compile(r"(\w+) (?:gave|passed|handed) the (\w+) to (\w+)\.")


@dataclass(slots=True)
class _Story:
    """Where everybody and everything is, and the fact that says so.

    Attributes:
        place: of each person, and the fact.
        holder: of each object that is held, and the fact.
        been: of each object the places it was at, each with the facts that say so.
        touched: of each person the facts about what they hold.
    """

    place: dict[str, tuple[str, int]] = field(default_factory=dict)
    holder: dict[str, tuple[str, int]] = field(default_factory=dict)
    been: dict[str, list[tuple[str, set[int]]]] = field(default_factory=dict)
    touched: dict[str, set[int]] = field(default_factory=dict)

    def tell(self, number: int, fact: str) -> None:
        if found := _MOVED.fullmatch(fact):
            who, where = found.groups()
            self.place[who] = (where, number)
            for thing, (holder, since) in self.holder.items():
                if holder == who:
                    self.been.setdefault(thing, []).append((where, {since, number}))
        elif found := _TOOK.fullmatch(fact):
            self._hands(found[2], found[1], number)
        elif found := _LEFT.fullmatch(fact):
            self.touched.setdefault(found[1], set()).add(number)
            self.holder.pop(found[2], None)
            if found[1] in self.place:
                where, moved = self.place[found[1]]
                self.been.setdefault(found[2], []).append((where, {moved, number}))
        elif found := _GAVE.fullmatch(fact):
            self.touched.setdefault(found[1], set()).add(number)
            self._hands(found[2], found[3], number)

    def _hands(self, thing: str, who: str, number: int) -> None:
        self.touched.setdefault(who, set()).add(number)
        self.holder[thing] = (who, number)
        if who in self.place:
            where, moved = self.place[who]
            self.been.setdefault(thing, []).append((where, {moved, number}))

    def before(self, thing: str, where: str) -> tuple[str, set[int]]:
        """The last place of `thing` before it came to `where`, for the last time."""
        been = self.been[thing]
        for i in range(len(been) - 1, 0, -1):
            if been[i][0] == where and been[i - 1][0] != where:
                return been[i - 1][0], been[i - 1][1] | been[i][1]
        raise ValueError(f"the {thing} never came to the {where}")


def needed_facts(facts: Sequence[str], question: str) -> tuple[str | None, tuple[int, ...]]:
    """What the story says, where that is one word, and the facts that say so.

    A person is where the last move led; a thing where it was last taken or left, or where its
    holder then went; what a person carries follows from all that this person took, gave and left.

    Raises:
        ValueError: a question of another kind, or one that the story does not answer.
    """
    story = _Story()
    for number, fact in enumerate(facts):
        story.tell(number, fact)
    try:
        answer, found = _answer(story, question)
    except (KeyError, IndexError):
        raise ValueError(f"the story does not answer {question!r}") from None
    return answer, tuple(sorted(found))


def _answer(story: _Story, question: str) -> tuple[str | None, set[int]]:
    if found := re.fullmatch(r"Where was the (\w+) before the (\w+)\?", question):
        return story.before(*found.groups())
    if found := re.fullmatch(r"Where is the (\w+)\?", question):
        return story.been[found[1]][-1]
    if found := re.fullmatch(r"Where is (\w+)\?", question):
        where, number = story.place[found[1]]
        return where, {number}
    if found := re.fullmatch(r"Is (\w+) in the (\w+)\?", question):
        where, number = story.place[found[1]]
        return "yes" if where == found[2] else "no", {number}
    if found := re.fullmatch(r"(?:What|How many objects) is (\w+) carrying\?", question):
        held = [thing for thing, (who, _) in story.holder.items() if who == found[1]]
        one = None if "many" in question else ",".join(held) or "nothing"
        return one, story.touched[found[1]]
    raise ValueError(f"no rule for the question {question!r}")
