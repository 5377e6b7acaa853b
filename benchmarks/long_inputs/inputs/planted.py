"""Own long documents: novels with facts about invented people, planted anywhere.

A document holds facts about six people, one line each, and four lines about a seventh. Five cases
ask of it: one fact; all four; to copy one of the novel's own paragraphs; and twice the writing
turns to somebody whom the instruction has not named: after an instruction that names another
(`turn_named`), and after one that names nobody (`turn_generic`).
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.long_inputs.inputs.known_tasks import copied
from benchmarks.long_inputs.inputs.needs import Case, Span, Want

_FIRST = (
    *("Anselm", "Berit", "Cosmo", "Dagny", "Emrys", "Fenella"),
    *("Gaspar", "Hedda", "Ignace", "Jorunn", "Kaspar", "Liesl"),
)
_LAST = (
    *("Crowe", "Halloway", "Quill", "Tamsin", "Vosk", "Wexley"),
    *("Yarrow", "Zeller", "Brandt", "Okoro", "Pettibone", "Sorge"),
)
_JOBS = (
    *("glazier", "beekeeper", "ferryman", "cooper"),
    *("chandler", "saddler", "weaver", "clockmaker"),
)
_THINGS = (
    *("compass", "ledger", "violin", "telescope"),
    *("medal", "snuffbox", "sundial", "barometer"),
)
_KINDS = (
    *("brass", "ivory", "cracked", "painted"),
    *("silver", "borrowed", "stolen", "unfinished"),
)
_PLACES = (
    "in the flour bin",
    "under the altar stone",
    "behind the mill wheel",
    "in a hollow elm",
    "in the baker's cellar",
    "beneath the third stair",
    "inside a blue teapot",
    "at the bottom of the well",
)
_TOWNS = ("Tarnwick", "Ostrava Bay", "Port Selby", "Grennick", "Lower Fallow", "Saint Orla")
_FEARS = ("geese", "thunder", "church bells", "mirrors", "deep water", "the smell of tar")

_COPIED = range(60, 161)
"""Words of a paragraph to copy."""

TURN = (
    "Another who deserves a word is {}. There is something to be told of {}, and it should not be "
    "left out here. "
)
FILLER = (
    "It takes up only a line or two of the whole, and a reader in a hurry would pass it over. "
    "What comes before it and what comes after it have little to do with it. "
    "So it has to be looked at by itself, as it stands, without guessing at more. "
)
GENERIC = "Summarize the text."
REACH = 1600
"""Characters written after a turn: enough for two refreshes, 128 tokens apart."""


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who is in no novel."""

    name: str
    job: str
    thing: str
    kind: str
    place: str
    town: str
    fear: str

    @property
    def title(self) -> str:
        """Name and trade."""
        return f"{self.name}, the {self.job}"

    @property
    def fact(self) -> str:
        """The one line about this person."""
        return f"{self.title}, keeps a {self.kind} {self.thing} {self.place}."

    @property
    def facts(self) -> tuple[str, ...]:
        """Four lines, for the one who has four."""
        return (
            f"{self.title}, was born in {self.town}.",
            f"Nothing frightens {self.name} but {self.fear}.",
            f"{self.name} once sold a {self.kind} {self.thing} for ninety crowns.",
            f"Every Sunday {self.name} sleeps until noon.",
        )


def people(count: int, rng: random.Random) -> list[Person]:
    """So many people with different names, trades and belongings."""

    def draw(pool: Sequence[str]) -> list[str]:
        return rng.sample(pool, count)

    names = [f"{a} {b}" for a, b in zip(draw(_FIRST), draw(_LAST), strict=True)]
    towns = [rng.choice(_TOWNS) for _ in names]
    fears = [rng.choice(_FEARS) for _ in names]
    parts = (names, draw(_JOBS), draw(_THINGS), draw(_KINDS), draw(_PLACES), towns, fears)
    return [Person(*row) for row in zip(*parts, strict=True)]


def plant(text: str, lines: Sequence[str], rng: random.Random) -> tuple[str, tuple[Span, ...]]:
    """The text with each line a paragraph at a place of its own, and where each then stands.

    Places are drawn evenly over the characters, then moved to the next end of a paragraph.
    """
    breaks = [i for i in range(len(text) - 1) if text.startswith("\n\n", i)] + [len(text)]
    wanted = [rng.uniform(0, len(text)) for _ in lines]
    at = [next((b for b in breaks if b >= want), len(text)) for want in wanted]
    out, spans, done = "", [(0, 0)] * len(lines), 0
    for number in sorted(range(len(lines)), key=lambda i: (at[i], i)):
        out += text[done : at[number]] + "\n\n"
        spans[number] = (len(out), len(out) + len(lines[number]))
        out += lines[number]
        done = at[number]
    return out + text[done:], tuple(spans)


def about(name: str, characters: int) -> str:
    """So much talk about somebody that says nothing."""
    text = ""
    while len(text) < characters:
        text += TURN.format(name, name) + FILLER
    return text


def cases(name: str, haystack: str, seed: int) -> Iterator[Case]:
    """The cases of one document.

    Args:
        name: of the document.
        haystack: running text, its paragraphs parted by empty lines.
        seed: of people and places.
    """
    rng = random.Random(seed)
    *singles, seventh = people(7, rng)
    lines = [person.fact for person in singles] + list(seventh.facts)
    text, spans = plant(haystack, lines, rng)
    asked, first, later, other = rng.sample(range(len(singles)), 4)
    yield _asked(name, text, singles[asked], spans[asked])
    told = " ".join(seventh.facts)
    want = Want(spans=spans[len(singles) :], end=len(told))
    question = f"What does the text say about {seventh.title}? Name everything."
    yield _case("own_multi", name, text, question, told, want)
    yield from _copying(name, text, random.Random(f"{seed} copied"))
    before = singles[first]
    opening = f"{before.fact} " + FILLER[: rng.randint(0, len(FILLER))].rsplit(" ", 1)[0] + " "
    for task, number, instruction in (
        ("turn_named", later, f"Begin with {before.title}, then tell what else there is."),
        ("turn_generic", other, GENERIC),
    ):
        rest = about(singles[number].title, REACH)
        begin = len(opening)
        want = Want(spans=(spans[number],), begin=begin, end=begin + len(rest), decisions=2)
        yield _case(task, name, text, instruction, opening + rest, want)


def _asked(name: str, text: str, person: Person, span: Span) -> Case:
    question = f"Where does {person.title}, keep the {person.thing}?"
    want = Want(spans=(span,), end=len(person.fact))
    return _case("own_single", name, text, question, person.fact, want)


def _copying(name: str, text: str, rng: random.Random) -> Iterator[Case]:
    """A paragraph to copy, if there is one that is not too short, not too long and unlike others;
    asked for as the known tasks do."""
    paragraphs = [p for p in text.split("\n\n") if len(p.split()) in _COPIED]
    openings = [" ".join(p.split(" ")[:8]) for p in paragraphs]
    alone = [i for i, opening in enumerate(openings) if text.count(opening) == 1]
    if not alone:
        return
    picked = rng.choice(alone)
    paragraph, opening = paragraphs[picked], openings[picked]
    yield Case(
        name=f"{name}-own_copy",
        task="own_copy",
        document=name,
        text=text,
        asked=f'Repeat, word for word, the paragraph that begins with "{opening}".',
        written=paragraph,
        wants=copied(text, paragraph),
    )


def _case(task: str, document: str, text: str, asked: str, written: str, want: Want) -> Case:
    return Case(
        name=f"{document}-{task}",
        task=task,
        document=document,
        text=text,
        asked=asked,
        written=written,
        wants=(want,),
    )
