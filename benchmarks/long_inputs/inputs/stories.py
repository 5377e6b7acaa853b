"""Inputs of any length: SQuALITY stories, one after the other, and a human summary of one."""

from pathlib import Path

from benchmarks.long_inputs.inputs.summaries import Summary, read_summaries
from benchmarks.long_inputs.inputs.texts import Library

_STORIES = 60


def long_story(library: Library, data: Path, number: int, tokens: int) -> tuple[str, str, str]:
    """A text of `tokens` tokens, an instruction, and human summaries of its first story.

    The last story is cut off. `number` is the first story, so different numbers give different
    texts, which overlap where they are long.

    Raises:
        ValueError: there are not so many tokens.
    """
    stories = [s for s in read_summaries(data, _STORIES, 1) if s.dataset == "eval_squality"]
    own = stories[number:] + stories[:number]
    text = "\n\n\n".join(story.text for story in _enough(library, own, tokens))
    ids, ends = library.tokenizer.encode_spans(text)
    if len(ids) < tokens:
        raise ValueError(f"the stories have {len(ids)} tokens, not {tokens}")
    told = "\n\n".join(own[0].references)
    return text[: ends[tokens - 1]], own[0].asked, told


def _enough(library: Library, stories: list[Summary], tokens: int) -> list[Summary]:
    taken, total = list[Summary](), 0
    for story in stories:
        taken.append(story)
        total += len(library.ids(story.text))
        if total >= tokens:
            break
    return taken
