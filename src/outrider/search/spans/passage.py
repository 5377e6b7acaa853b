"""The passage of a prompt, the beginnings of its spans, and what ends an answer."""

from collections.abc import Collection
from dataclasses import dataclass, field

from outrider.core.errors import OptionError
from outrider.inputs.given import TextCodec
from outrider.search.task import Task
from outrider.search.tree import Node

LINE_ENDS = ("\n", "\n\n", "\r\n")


@dataclass(slots=True)
class Prefix:
    """The first tokens of one or several spans, which have the same tokens so far.

    Attributes:
        parent: the node of all tokens but the last.
        token: the last token; -1 for the empty prefix.
        starts: where in the passage it occurs, ascending.
        depth: number of its tokens.
        logprob: sum of their log-probabilities.
        node: its own node, once it is read.
    """

    parent: Node
    token: int
    starts: list[int]
    depth: int
    logprob: float = 0.0
    node: Node = field(default_factory=Node)

    @classmethod
    def empty(cls, root: Node, length: int) -> "Prefix":
        """Return the prefix of all spans of a passage of this length."""
        return cls(root, -1, list(range(length)), 0, node=root)


def grown(prefix: Prefix, passage: tuple[int, ...], banned: Collection[int]) -> list[Prefix]:
    """Return the prefixes that are one token longer, without their log-probabilities.

    Args:
        prefix: a prefix that was read.
        passage: the tokens of the passage.
        banned: tokens that no span holds.
    """
    found: dict[int, list[int]] = {}
    for start in prefix.starts:
        place = start + prefix.depth
        if place < len(passage) and passage[place] not in banned:
            found.setdefault(passage[place], []).append(start)
    depth = prefix.depth + 1
    return [Prefix(prefix.node, token, starts, depth) for token, starts in found.items()]


def passage_of(task: Task, text: str | None) -> tuple[int, ...]:
    """Return the tokens of the passage.

    Args:
        task: the prompt.
        text: the passage; None: the documents of the prompt, or all of it without any.

    Raises:
        OptionError: it is empty, or there is no tokenizer to read it.
    """
    prompt = task.request.prompt
    if text is not None:
        codec = task.need_codec("a passage")
        tokens = _inside(codec, prompt.token_ids, text) or task.ids(text)
    elif prompt.context is not None:
        start = prompt.context.start
        tokens = prompt.token_ids[start : start + prompt.context.num_tokens]
    else:
        tokens = prompt.token_ids
    if not tokens:
        raise OptionError("the passage is empty", hint="Give a text in which answers are found")
    return tokens


def end_tokens(task: Task, *, newline: bool) -> list[int]:
    """Return the tokens after which an answer has ended: end tokens, and stop strings that are one
    token. Raises `OptionError` if there is none."""
    found = set(task.end_ids)
    if task.codec is not None:
        for text in (*task.sampler.params.stop, *(LINE_ENDS if newline else ())):
            ids = task.ids(text)
            found |= set(ids) if len(ids) == 1 else set()
    if not found:
        raise OptionError(
            "no token ends an answer", hint="Give stop_token_ids, or a model with an end token"
        )
    return sorted(found)


def _inside(codec: TextCodec, ids: tuple[int, ...], text: str) -> tuple[int, ...]:
    """Return the tokens of the prompt that write a text: the fewest that hold all of it, at its
    last place. Empty if the prompt does not hold it."""
    text = text.strip()
    if not text or text not in codec.decode(ids):
        return ()
    begin, end = 0, len(ids)
    # A longer beginning holds less of what follows, so both ends are found by bisection.
    while end - begin > 1:
        middle = (begin + end) // 2
        begin, end = (middle, end) if text in codec.decode(ids[middle:]) else (begin, middle)
    low, high = begin, len(ids)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if text in codec.decode(ids[begin:middle]) else (middle, high)
    return ids[begin:high]
