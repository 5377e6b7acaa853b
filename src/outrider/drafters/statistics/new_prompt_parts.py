"""Finds the part of each prompt that a shared memory has not read yet."""

from collections.abc import Sequence

from outrider.protocols import Request

Tokens = tuple[int, ...]


def unread(requests: Sequence[Request], known: Sequence[Tokens], overlap: int) -> list[Tokens]:
    """Return the new end of the prompt of each request.

    Samples of one prompt (the same object) read it once. A prompt that begins with its `known` part
    (the prompt of the previous turn; empty for none) is read from `overlap` tokens before the end
    of that part, so that n-grams across the boundary are included.
    """
    parts: list[Tokens] = []
    met: set[int] = set()
    for request, old in zip(requests, known, strict=True):
        prompt = request.prompt.token_ids
        if id(request.prompt) in met:
            parts.append(())
        elif old and prompt[: len(old)] == old:
            parts.append(prompt[max(len(old) - overlap, 0) :])
        else:
            parts.append(prompt)
        met.add(id(request.prompt))
    return parts
