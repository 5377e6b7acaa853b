"""Contrastive search: of the most probable tokens, one whose state differs from those before it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from outrider.core.checks import SHARE, Range, check_ranges
from outrider.core.errors import OptionError
from outrider.core.types import Exactness
from outrider.protocols.method import Method, Paper
from outrider.search.candidate import Candidate
from outrider.search.steps.written import Written
from outrider.search.task import Search, Task
from outrider.search.tree import TokenTree

_RANGES = {
    "alpha": SHARE,
    "top_k": Range(1, whole=True, hint="Give at least 1 candidate"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrastive(Search):
    """Takes the token with the largest `(1 - alpha) * p - alpha * s` of the most probable ones: `p`
    is its probability, `s` the largest cosine similarity of its last hidden state to that of any
    earlier token, of the prompt or the text. All candidates of a step are read in one forward,
    which also gives the probabilities after the one that is taken. The score is the mean
    log-probability of a token.

    Attributes:
        alpha: weight of the similarity, from 0 to 1; 0 is greedy decoding.
        top_k: candidates of a step.
    """

    alpha: float = 0.6
    top_k: int = 4

    def __post_init__(self) -> None:
        check_ranges(self, _RANGES)

    def run(self, task: Task) -> Sequence[Candidate]:
        """Return the text.

        Raises:
            OptionError: the model returns no hidden states.
        """
        text = Written(task)
        task.partial = text.unfinished
        tree, seen = _opened(task)
        most = min(task.sampler.params.max_new_tokens, tree.room)
        node, logits = tree.root, tree.first()
        seen.add(_states(tree)[0])
        while len(text.tokens) < most and not text.ended:
            logprobs, tokens = self._candidates(task, logits, text.tokens)
            nodes, rows = tree.extend([(node, int(token)) for token in tokens])
            states = _states(tree)
            scores = (1 - self.alpha) * logprobs.exp() - self.alpha * seen.similarity(states)
            best = int(scores.argmax())
            text.add([int(tokens[best])], float(logprobs[best]))
            seen.add(states[best])
            node, logits = nodes[best], rows[best]
            tree.keep([node])
        return text.finished()

    def _candidates(
        self, task: Task, logits: Float[Tensor, " vocab"], text: Sequence[int]
    ) -> tuple[Float[Tensor, " candidates"], Int[Tensor, " candidates"]]:
        """Return the log-probabilities and the ids of the most probable tokens that are not
        banned, the best first, on the CPU."""
        [logprobs] = task.logprobs(logits[None], [text])
        values, tokens = torch.topk(logprobs, min(self.top_k, logprobs.numel()))
        allowed = values > -torch.inf
        return values[allowed].double().cpu(), tokens[allowed].cpu()


class _Seen:
    """The directions of the last hidden states of a text, in float64."""

    def __init__(self, states: Float[Tensor, "rows hidden"], room: int) -> None:
        """Begin with these states; at most `room` follow."""
        self._count = len(states)
        shape = (len(states) + room, states.shape[1])
        self._units = torch.empty(shape, dtype=torch.float64, device=states.device)
        self._units[: self._count] = _units(states)

    def add(self, state: Float[Tensor, " hidden"]) -> None:
        """Append the state of a token."""
        self._units[self._count] = _units(state)
        self._count += 1

    def similarity(self, states: Float[Tensor, "rows hidden"]) -> Float[Tensor, " rows"]:
        """Return the largest cosine similarity of each state to one that was added, on the CPU."""
        found = _units(states) @ self._units[: self._count].T
        return found.max(-1).values.cpu()


def _units(states: Float[Tensor, "*rows hidden"]) -> Float[Tensor, "*rows hidden"]:
    return torch.nn.functional.normalize(states.double(), dim=-1)


def _opened(task: Task) -> tuple[TokenTree, _Seen]:
    """Read the prompt with a cache that stores the last hidden states; return the tree after it,
    and the states of the tokens that are read."""
    target = task.stage.model
    if target.hidden_states is None:
        raise OptionError(
            f"contrastive search compares hidden states, which {target.info.name} does not return",
            hint="Use strategy 'momentum', which needs none",
        )
    last = target.hidden_states.num_layers
    model = target.hidden_states.keeping([last])
    cache = task.read(model)
    states = model.hidden_states
    assert states is not None  # `keeping` returns the same kind of model
    states.watch(cache, [last])
    read = states.kept(cache, 0, len(cache.text) - len(cache.pending))
    room = 1 + min(task.sampler.params.max_new_tokens, cache.remaining)
    return TokenTree(model, cache, task.account, watched=[last]), _Seen(read[:, 0], room)


def _states(tree: TokenTree) -> Float[Tensor, "rows hidden"]:
    """Return the last hidden states of the rows of the newest forward."""
    assert tree.states is not None  # the cache is watched
    return tree.states[0]


METHOD = Method(
    name="contrastive",
    cls=Contrastive,
    summary="of the most probable tokens, one whose hidden state differs from those before it",
    paper=Paper("A Contrastive Framework for Neural Text Generation", "2202.06417"),
    promise=Exactness.LOSSY,
    needs="a target that returns hidden states",
    memory="two vectors of the hidden size for each token",
)
