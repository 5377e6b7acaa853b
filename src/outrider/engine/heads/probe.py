"""A short test of a head: does it draft for this target at all?

Names, sizes and the tokenizer of a head and its target can agree although the head was trained on
other states. Eight short answers show it; the result is kept on disk.
"""

import hashlib
import json
import logging
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from outrider.acceptance import Match
from outrider.core.errors import StrategyError
from outrider.core.types import Prompt
from outrider.decoding import generate
from outrider.decoding.generation import Generation
from outrider.drafters import ModelDrafter
from outrider.kernels.cache import private_folder, read_private, write_private
from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.models.heads.loading import HeadPair
from outrider.policies import FixedLength
from outrider.protocols import Request
from outrider.sampling import Sampler, SamplingParams
from outrider.strategy.strategy import Strategy

LEAST = 1.1
"""Tokens of a round below which a head is refused."""
_QUESTIONS = (
    "Name three rivers in Europe.",
    "Write a short story about a boy who finds a map.",
    "What is the sum of 17 and 25? Explain each step.",
    "Write a Python function that returns the largest number of a list.",
    "Why is the sky blue?",
    "Write a polite letter that asks for a refund.",
    "Give me a list of five healthy breakfasts.",
    "Explain how a bicycle keeps its balance.",
)
_LONGEST, _DEPTH = 40, 2
_VERSION = 1
_LOG = logging.getLogger(__name__)


def check_head(pair: HeadPair, folder: Path, tokenizer: Tokenizer | None) -> None:
    """Raise `StrategyError` for a head that gains almost nothing on eight short prompts.

    Args:
        pair: the head and its target.
        folder: the files of the head.
        tokenizer: of the target; without one, nothing is checked.
    """
    if tokenizer is None:
        return
    tokens = _known(pair, folder)
    if tokens is None:
        _LOG.info("testing the head %s (once; the result is kept on disk)", pair.head.info.name)
        prompts = [_encoded(tokenizer, text) for text in _QUESTIONS]
        params = SamplingParams(max_new_tokens=_LONGEST)
        tokens = tokens_a_round(pair, prompts, params, _DEPTH)
        with suppress(OSError):  # without the cache, the next load tests again
            write_private(_file(pair, folder), json.dumps(tokens).encode())
    if tokens < LEAST:
        raise StrategyError(
            f"the head {pair.head.info.name} does not draft for {pair.target.info.name}: "
            f"{tokens:.2f} tokens a round on {len(_QUESTIONS)} prompts, and {LEAST:g} are needed",
            hint="Choose a head that was trained for this target, or leave out draft",
        )


def tokens_a_round(
    pair: HeadPair, prompts: Sequence[tuple[int, ...]], params: SamplingParams, depth: int
) -> float:
    """Decode the prompts with drafts of `depth` tokens; return the tokens of a round."""
    strategy = Strategy(
        target=pair.target,
        drafter=ModelDrafter(model=pair.head),
        rule=Match(),
        policy=FixedLength(depth),
    )
    ends = pair.target.info.end_ids
    generations = [
        Generation(Request(Prompt(token_ids=ids), Sampler(params, prompt_ids=ids, end_ids=ends)))
        for ids in prompts
        if len(ids) + params.max_new_tokens < pair.target.info.context_length
    ]
    for _ in generate(strategy.stage, generations):
        pass
    tokens = sum(len(generation.output) for generation in generations)
    return tokens / max(sum(generation.counters.rounds for generation in generations), 1)


def _encoded(tokenizer: Tokenizer, text: str) -> tuple[int, ...]:
    if not tokenizer.has_chat:
        return tokenizer.encode(text)
    return tokenizer.chat([{"role": "user", "content": text}])


def _known(pair: HeadPair, folder: Path) -> float | None:
    """Return the result of an earlier test; None if there is none, or it is damaged."""
    try:
        found = json.loads(read_private(_file(pair, folder)))
    except (OSError, ValueError, RecursionError):
        return None
    return float(found) if isinstance(found, int | float) else None


def _file(pair: HeadPair, folder: Path) -> Path:
    hashed = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")):
        hashed.update(file.read_bytes())
    own = hashed.hexdigest()[:16]
    target = pair.target.info.fingerprint
    return private_folder("heads") / f"{own}-{target}-{_VERSION}.json"
