"""Conformance tests of search strategies: what must hold of each, whatever it searches for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from outrider.core.errors import OptionError, OutriderError
from outrider.decoding import Stage
from outrider.drafters import NoDrafter
from outrider.drafters.copying.lookup import Lookup
from outrider.policies import FixedLength
from outrider.protocols import LanguageModel
from outrider.search import FunctionScorer, Limits, Scorer, Search, SearchResult, Task, run_search
from outrider.search.account import Account
from outrider.testing.errors import require
from outrider.testing.rigs import generation, stage, tabular_family

LETTERS = "abcdefghijklmnopqrstuvwxyz"
LENGTH = 12
END = 0


class LetterCodec:
    """A tokenizer whose tokens are letters."""

    has_chat = False

    def encode(self, text: str) -> tuple[int, ...]:
        """Encode letters."""
        return tuple(LETTERS.index(letter) for letter in text)

    def decode(self, ids: Sequence[int]) -> str:
        """Decode letters; the end token has no text."""
        return "".join(LETTERS[i] for i in ids if i != END)

    def chat(self, messages: object) -> tuple[int, ...]:
        """There is no template. Raises `OptionError`."""
        raise OptionError("letters have no chat template", hint="Give token ids")


@dataclass(slots=True)
class Counted:
    """A scorer that counts its calls, and fails at one of them.

    Attributes:
        fails_at: number of the text at which it raises; None: never.
        texts: texts that it has judged.
    """

    fails_at: int | None = None
    texts: int = 0

    @property
    def name(self) -> str:
        """Its name."""
        return "counted"

    def score(self, prompt: str, texts: Sequence[str]) -> list[float]:
        """Return the share of the letter b."""
        self.texts += len(texts)
        if self.fails_at is not None and self.texts >= self.fails_at:
            raise RuntimeError("no reward today")
        return [text.count("b") / (len(text) + 1) for text in texts]


def task(
    model: LanguageModel,
    prompt: Sequence[int],
    *,
    drafted: bool = False,
    scorer: Scorer | Callable[[str], float] | None = None,
    limits: Limits | None = None,
    cancelled: Callable[[], bool] = lambda: False,
    **sampling: Any,
) -> Task:
    """Return the task of one prompt, with the tokenizer of letters.

    Args:
        model: the target.
        prompt: its tokens.
        drafted: whether passages are drafted by copies.
        scorer: judges texts.
        limits: of the search.
        cancelled: whether to end.
        sampling: options of `SamplingParams`.
    """
    if scorer is not None and not isinstance(scorer, Scorer):
        scorer = FunctionScorer(scorer)
    whole: Stage = stage(model, Lookup() if drafted else NoDrafter(), policy=FixedLength(3))
    given = {"max_new_tokens": LENGTH, "seed": 5, **sampling}
    return Task(
        stage=whole,
        request=generation(prompt, end_ids=(END,), **given).request,
        account=Account(limits=limits or Limits(), cancelled=cancelled),
        codec=LetterCodec(),
        scorer=scorer,
    )


def searched(
    search: Search, model: LanguageModel, prompt: Sequence[int], **more: Any
) -> SearchResult:
    """Run a strategy on one prompt; see `task`."""
    given = {**search.sampling, **more}
    return run_search(search, task(model, prompt, **given), "test")


def tabular(seed: int) -> LanguageModel:
    """Return a target whose probabilities are known."""
    return tabular_family(seed=seed).target


def check_search(
    make: Callable[[], Search],
    *,
    scored: bool = False,
    model_of: Callable[[int], LanguageModel] = tabular,
) -> None:
    """Check a strategy on models with seven tokens.

    Texts keep the limits and end where the model ends them; candidates are ordered; the same seed
    gives the same result; drafts change nothing; a limit, a cancellation and a scorer that fails
    keep what was found, or raise an error that names the reason.

    Args:
        make: builds the strategy.
        scored: whether it needs a scorer.
        model_of: returns the target of a seed, with seven tokens; for strategies that need more of
            a model than logits.

    Raises:
        ConformanceError: the first violated point, in one line.
    """
    for seed in range(3):
        model = model_of(seed)
        prompt = (1, 2, 3, 1, 2, 3)
        given: dict[str, Any] = {"scorer": Counted()} if scored else {}
        first = searched(make(), model, prompt, **given)
        _check_texts(first)
        again = searched(make(), model, prompt, **(given and {"scorer": Counted()}))
        require(_plain(again) == _plain(first), "the same seed gives another result")
        drafted = searched(make(), model, prompt, drafted=True, **(given and {"scorer": Counted()}))
        require(_plain(drafted) == _plain(first), "drafts change the result")
        _check_limits(make, model, prompt, first, scored)


def _check_texts(found: SearchResult) -> None:
    require(len(found.candidates) > 0, "there is no candidate")
    scores = [one.score for one in found.candidates]
    require(scores == sorted(scores, reverse=True), "candidates are not ordered by their scores")
    for one in found.candidates:
        tokens = one.token_ids
        require(len(tokens) <= LENGTH, f"a text has {len(tokens)} tokens, more than {LENGTH}")
        require(END not in tokens[:-1], "a text goes on after its end")
        require(one.text == LetterCodec().decode(tokens), "the text is not that of the tokens")
        ends = bool(tokens) and tokens[-1] == END
        require(not ends or one.finish_reason == "stop", "a text that ends has another reason")
    require(found.forwards > 0 and found.tokens >= found.forwards, "nothing was counted")
    require(found.stopped == "", f"the search was stopped: {found.stopped}")


def _check_limits(
    make: Callable[[], Search],
    model: LanguageModel,
    prompt: Sequence[int],
    whole: SearchResult,
    scored: bool,
) -> None:
    """Check that limits, cancellations and errors keep what is found, or name the reason."""
    for tokens in {1, max(whole.tokens // 2, 1)}:
        given: dict[str, Any] = {"scorer": Counted()} if scored else {}
        _stopped(make, model, prompt, f"limit of {tokens}", limits=Limits(tokens=tokens), **given)
    calls: list[int] = []

    def cancelled() -> bool:
        calls.append(1)
        return len(calls) > 2

    given = {"scorer": Counted()} if scored else {}
    _stopped(make, model, prompt, "cancelled", cancelled=cancelled, **given)
    if scored:
        for at in (1, max(whole.scorer_calls // 2, 1)):
            _stopped(make, model, prompt, "no reward today", scorer=Counted(fails_at=at))
        limits = Limits(scorer_calls=max(whole.scorer_calls // 2, 1))
        _stopped(make, model, prompt, "judged texts", limits=limits, scorer=Counted())


def _stopped(
    make: Callable[[], Search], model: LanguageModel, prompt: Sequence[int], why: str, **more: Any
) -> None:
    try:
        found = searched(make(), model, prompt, **more)
    except OutriderError as error:
        require(why in str(error), f"the error does not name the reason: {error}")
        return
    if found.stopped:
        require(why in found.stopped, f"the result does not name the reason: {found.stopped}")
        require(len(found.candidates) > 0, "a stopped search returned nothing and no error")
        scores = [one.score for one in found.candidates]
        require(scores == sorted(scores, reverse=True), "what was found is not in order")


def _plain(found: SearchResult) -> list[tuple[Any, ...]]:
    """Return what must be equal; scores up to rounding in the last digits."""
    return [(one.token_ids, round(one.score, 9), one.finish_reason) for one in found.candidates]
