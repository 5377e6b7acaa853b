"""How well a continuation fits its prompt, by a language model and by the words of the true one."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from outrider.core.types import Prompt
from outrider.protocols import LanguageModel
from outrider.search.account import Account
from outrider.search.tree import TokenTree


def logprobs(model: LanguageModel, before: Sequence[int], tokens: Sequence[int]) -> list[float]:
    """Return the log-probability of each token after a text, and after those before it."""
    [cache] = model.start([Prompt(token_ids=tuple(before))])
    tree = TokenTree(model, cache, Account())
    rows = torch.cat([tree.first()[None], tree.read(tree.root, tokens[:-1])])
    found = torch.log_softmax(rows.float(), -1)
    return found[torch.arange(len(tokens)), torch.tensor(tokens)].tolist()


def overlap(text: str, reference: str, length: int) -> float:
    """Return the F1 of the n-grams of words of two texts, each counted as often as it occurs."""
    own, true = (_grams(one, length) for one in (text, reference))
    both = sum((own & true).values())
    return 2 * both / max(sum(own.values()) + sum(true.values()), 1)


def _grams(text: str, length: int) -> Counter[tuple[str, ...]]:
    words = re.findall(r"[a-z']+", text.lower())
    return Counter(tuple(words[i : i + length]) for i in range(len(words) - length + 1))


@dataclass(frozen=True, slots=True)
class Fit:
    """How well a continuation fits.

    Attributes:
        logprob: mean log-probability of a token after the prompt.
        information: that less the mean without the prompt: the pointwise mutual information of
            prompt and continuation, by its tokens.
        late: the same of the second half of the tokens; those before are read in both cases.
        words: F1 of the words with the true continuation.
        pairs: F1 of the pairs of words with it.
    """

    logprob: float
    information: float
    late: float
    words: float
    pairs: float


def fit(
    model: LanguageModel,
    prompt: Sequence[int],
    without: Sequence[int],
    tokens: Sequence[int],
    texts: tuple[str, str],
) -> Fit:
    """Judge a continuation.

    Args:
        model: reads it.
        prompt: tokens of the prompt.
        without: what it is read after in the place of the prompt.
        tokens: tokens of the continuation.
        texts: the continuation, and the true one.
    """
    own = np.array(logprobs(model, prompt, tokens))
    gain = own - np.array(logprobs(model, without, tokens))
    late = gain[len(gain) // 2 :]
    return Fit(
        float(own.mean()),
        float(gain.mean()),
        float(late.mean()),
        overlap(*texts, 1),
        overlap(*texts, 2),
    )
