"""One request on its way through the server."""

import time
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from outrider.constraints.token_texts import TokenTexts
from outrider.engine.serving.messages import Submission
from outrider.models.checkpoints.tokenizer import Tokenizer

B = TypeVar("B")


@dataclass(slots=True, kw_only=True)
class Job(Generic[B]):
    """What an answer is built from.

    Attributes:
        id: the identifier of the answer.
        model: the name of the model, as it was asked for.
        fingerprint: changes when anything changes that can change texts.
        body: the request.
        submissions: one for each prompt.
        n: samples of each prompt.
        tokenizer: the tokenizer of the target.
        texts: texts of tokens.
        created: seconds since 1970.
    """

    id: str
    model: str
    fingerprint: str
    body: B
    submissions: tuple[Submission, ...]
    n: int
    tokenizer: Tokenizer
    texts: TokenTexts
    created: int = field(default_factory=lambda: int(time.time()))

    def head(self, kind: str) -> dict[str, Any]:
        """Return the fields with which all answers and chunks begin."""
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
        }
