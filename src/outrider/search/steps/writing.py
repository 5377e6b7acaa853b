"""One text that grows token by token on a tree."""

from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor

from outrider.core.values import JsonValue
from outrider.search.candidate import Candidate
from outrider.search.steps.lookahead import Ahead, unread
from outrider.search.steps.written import Written
from outrider.search.task import Task
from outrider.search.tree import Node, TokenTree


@dataclass(slots=True)
class Writing(Written):
    """The text so far, with its branch.

    Attributes:
        tree: its tree.
        node: the last token.
        logits: the logits after it; None until it is read.
        about: for the result.
    """

    tree: TokenTree = field(kw_only=True)
    node: Node = field(kw_only=True)
    logits: Tensor | None = None
    about: dict[str, JsonValue] = field(default_factory=dict[str, JsonValue])

    @classmethod
    def begin(cls, task: Task) -> "Writing":
        """Begin after the prompt."""
        tree = task.tree()
        return cls(task, tree=tree, node=tree.root)

    @property
    def done(self) -> bool:
        """Whether the text has ended."""
        return self.ended or len(self.tokens) >= self.task.most

    def next(self) -> Float[Tensor, " vocab"]:
        """Return the log-probabilities of the next token (`Task.logprobs`). Reads the last token
        if nothing has read it."""
        if self.logits is None:
            self.logits = self._read()
        return self.task.logprobs(self.logits[None], [self.tokens])[0]

    def _read(self) -> Tensor:
        if self.node.parent is None:
            return self.tree.first()
        [self.node], logits = self.tree.extend([(self.node.parent, self.node.token)])
        return logits[0]

    def take(self, token: int, logprob: float) -> None:
        """Append a token that is not read yet."""
        self.add([token], logprob)
        self.node = unread(self.node, token)
        self.logits = None

    def follow(self, ahead: Ahead, logprob: float, count: int = 1) -> None:
        """Append the first `count` tokens of a look-ahead from here; `logprob` is that of the
        first one."""
        self.add(ahead.tokens[:count], logprob + sum(ahead.logprobs[: count - 1]))
        if count <= len(ahead.nodes):
            self.node, self.logits = ahead.nodes[count - 1], ahead.rows[count - 1]
        else:
            self.node, self.logits = ahead.end, None

    def prune(self) -> None:
        """Drop the rows of all other branches."""
        last = self.node if self.logits is not None else self.node.parent
        self.tree.keep([last] if last is not None else [])

    def candidates(self, score: float | None = None) -> list[Candidate]:
        """Return the text as the only result; none before the first token. Its score is its mean
        log-probability unless another one is given."""
        if not self.tokens:
            return []
        mean = self.logprob / len(self.tokens)
        return [
            self.task.candidate(
                self.tokens,
                mean if score is None else score,
                logprob=self.logprob,
                finish=None if self.done else "unfinished",
                **self.about,
            )
        ]
