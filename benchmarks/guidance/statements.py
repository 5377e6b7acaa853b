"""Statements with one right and three wrong endings, and questions with given choices."""

import json
import random
from dataclasses import dataclass
from pathlib import Path

from outrider.inputs.lines import numbered_lines

LISTS: dict[str, tuple[str, str]] = {
    "The capital of {} is": (
        "capitals",
        "France Paris; Germany Berlin; Italy Rome; Spain Madrid; Portugal Lisbon; Austria Vienna; "
        "Greece Athens; Poland Warsaw; Hungary Budapest; Norway Oslo; Sweden Stockholm; "
        "Finland Helsinki; Denmark Copenhagen; Ireland Dublin; Russia Moscow; Ukraine Kyiv; "
        "Turkey Ankara; Egypt Cairo; Kenya Nairobi; Nigeria Abuja; Ghana Accra; Morocco Rabat; "
        "Ethiopia Addis_Ababa; Japan Tokyo; China Beijing; India New_Delhi; Pakistan Islamabad; "
        "Bangladesh Dhaka; Nepal Kathmandu; Thailand Bangkok; Vietnam Hanoi; Indonesia Jakarta; "
        "Malaysia Kuala_Lumpur; South_Korea Seoul; Iran Tehran; Iraq Baghdad; Lebanon Beirut; "
        "Canada Ottawa; Cuba Havana; Peru Lima; Chile Santiago; Colombia Bogota; Brazil Brasilia; "
        "Argentina Buenos_Aires; Venezuela Caracas; Australia Canberra; New_Zealand Wellington; "
        "Bulgaria Sofia; Romania Bucharest; Serbia Belgrade",
    ),
    "The chemical element with the symbol {} is": (
        "elements",
        "H hydrogen; He helium; Li lithium; C carbon; N nitrogen; O oxygen; F fluorine; Ne neon; "
        "Na sodium; Mg magnesium; Al aluminium; Si silicon; P phosphorus; S sulfur; Cl chlorine; "
        "K potassium; Ca calcium; Ti titanium; Fe iron; Ni nickel; Cu copper; Zn zinc; Ag silver; "
        "Sn tin; Au gold; Hg mercury; Pb lead; U uranium; W tungsten; Pt platinum",
    ),
    "The currency of {} is the": (
        "currencies",
        "Japan yen; India rupee; Russia ruble; Poland zloty; Mexico peso; Brazil real; "
        "Sweden krona; Turkey lira; Israel shekel; South_Africa rand; Thailand baht; "
        "South_Korea won; Hungary forint; Switzerland franc; Vietnam dong; Canada dollar; "
        "Nigeria naira; China yuan",
    ),
    "{} was written by": (
        "books",
        "Moby-Dick Herman_Melville; Hamlet William_Shakespeare; Don_Quixote Miguel_de_Cervantes; "
        "War_and_Peace Leo_Tolstoy; Emma Jane_Austen; Oliver_Twist Charles_Dickens; "
        "Frankenstein Mary_Shelley; Dracula Bram_Stoker; Ulysses James_Joyce; "
        "The_Odyssey Homer; The_Divine_Comedy Dante; The_Hobbit J.R.R._Tolkien; "
        "Les_Misérables Victor_Hugo; Crime_and_Punishment Fyodor_Dostoevsky; "
        "The_Metamorphosis Franz_Kafka; Jane_Eyre Charlotte_Brontë; Walden Henry_David_Thoreau; "
        "The_Raven Edgar_Allan_Poe; Brave_New_World Aldous_Huxley; Animal_Farm George_Orwell; "
        "Gulliver's_Travels Jonathan_Swift; Robinson_Crusoe Daniel_Defoe; "
        "The_Jungle_Book Rudyard_Kipling; Treasure_Island Robert_Louis_Stevenson",
    ),
    "{} is a country on the continent of": (
        "continents",
        "Brazil South_America; Kenya Africa; Japan Asia; Sweden Europe; Canada North_America; "
        "Peru South_America; Ghana Africa; Nepal Asia; Poland Europe; Mexico North_America; "
        "Chile South_America; Zambia Africa; Laos Asia; Latvia Europe; Bolivia South_America; "
        "Morocco Africa; Mongolia Asia; Croatia Europe",
    ),
    "A young {} is called a": (
        "young animals",
        "dog puppy; cat kitten; cow calf; horse foal; sheep lamb; lion cub; goose gosling; "
        "duck duckling; kangaroo joey; frog tadpole; goat kid; pig piglet",
    ),
}
"""The beginning of statements, their topic, and pairs of subject and ending."""


@dataclass(frozen=True, slots=True)
class Probe:
    """A text with endings, of which the first is right."""

    topic: str
    text: str
    endings: tuple[str, ...]


def statements(seed: int = 0) -> list[Probe]:
    """Return statements; wrong endings are right ones of the same topic."""
    draw = random.Random(seed)
    found: list[Probe] = []
    for form, (topic, table) in LISTS.items():
        pairs = [
            tuple(word.replace("_", " ") for word in pair.strip().split(" "))
            for pair in table.split(";")
        ]
        endings = sorted({ending for _, ending in pairs})
        for subject, right in pairs:
            wrong = draw.sample([e for e in endings if e != right], 3)
            found.append(Probe(topic, form.format(subject), (right, *wrong)))
    return found


def trivia_choices(file: Path, count: int) -> list[Probe]:
    """Return questions of OpenTriviaQA with their own choices."""
    found: list[Probe] = []
    for _, line in numbered_lines(file):
        if len(found) == count:
            break
        record = json.loads(line)
        right, choices = record["answer"], record["choices"]
        wrong = [choice for choice in choices if choice != right]
        if len(wrong) == 3 and "all of" not in " ".join(choices).lower():
            text = f"Question: {record['question'].strip()}\nAnswer:"
            found.append(Probe("trivia", text, (right, *wrong)))
    return found
