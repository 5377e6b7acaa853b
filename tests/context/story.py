"""A story of six sentences, each about something else."""

FACTS = [
    "The bakery of Anna sells rye bread.",
    "A red boat lies in the harbour.",
    "On Sundays the bells ring at nine.",
    "The old bridge is closed to cars.",
    "Tom keeps bees behind the mill.",
    "Rain fell on the fields all day.",
]
STORY = " ".join(FACTS)
