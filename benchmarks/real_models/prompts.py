"""The prompts of Spec-Bench by its six official categories."""

from pathlib import Path

from outrider.training.core.corpus import read_records

OFFICIAL = ("translation", "summarization", "qa", "math_reasoning", "rag")
"""Five of the six categories; all others are turns of MT-Bench, the sixth."""
CHAT = "multi_turn"


def by_category(path: Path, of_each: int, characters: int) -> list[tuple[str, str]]:
    """Return `(category, first turn)`, `of_each` of each category, the categories in turn.

    Prompts of MT-Bench are spread over its subjects. Longer prompts are cut to `characters`.
    """
    kinds: dict[str, list[tuple[str, str]]] = {name: [] for name in (CHAT, *OFFICIAL)}
    for record in read_records(path):
        kind = record["category"] if record["category"] in OFFICIAL else CHAT
        kinds[kind].append((kind, record["turns"][0][:characters]))
    picked = [_spread(texts, of_each) for texts in kinds.values()]
    return [text for row in zip(*picked, strict=True) for text in row]


def _spread(texts: list[tuple[str, str]], number: int) -> list[tuple[str, str]]:
    """Return `number` texts at equal distances; all of them if there are fewer."""
    number = min(number, len(texts))
    return [texts[i * len(texts) // number] for i in range(number)]
