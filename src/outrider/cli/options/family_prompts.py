"""Finds prompts that ship with a model family."""

from pathlib import Path

from outrider.core.errors import OptionError
from outrider.inputs.prompts.files import read_prompts

OPENINGS = (
    "Once upon a time, in a little house at the edge of a wood, there lived",
    "Alice was beginning to get very tired of sitting by her sister on the bank, and of having "
    "nothing to do:",
)
"""Used if a family ships no prompts. The second is by Lewis Carroll, 1865."""

FILE = "prompts.jsonl"


def prompts_of(target: str) -> Path:
    """Return the file of prompts that ships with the family of `target`.

    Raises:
        OptionError: the family ships none.
    """
    file = _prompts_file(target)
    if file is None:
        raise OptionError(f"{target!r} ships no prompts", hint="Give --prompts FILE")
    return file


def opening_prompts(target: str, count: int = 2) -> list[str]:
    """Return a few texts to continue: spread over the family's prompts, else two book openings."""
    file = _prompts_file(target)
    known = read_prompts(file) if file else OPENINGS
    texts = [prompt for prompt in known if isinstance(prompt, str)]
    return texts[:: max(len(texts) // count, 1)][:count]


def _prompts_file(target: str) -> Path | None:
    """Find `prompts.jsonl` of a shipped family, or in a folder or its parent."""
    from outrider.models.sources.families import families_folder

    place = Path(target).expanduser()
    found = [folder / FILE for folder in (families_folder() / target, place, place.parent)]
    return next((file for file in found if file.is_file()), None)
