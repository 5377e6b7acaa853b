"""`outrider demo`: answers three questions, or continues two texts, with and without drafting."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any

from outrider.cli.commands.generate import Color
from outrider.cli.options.family_prompts import opening_prompts
from outrider.cli.options.options import Runtime, Tiers, load_generator, option
from outrider.cli.ui.render import Screen

if TYPE_CHECKING:
    from outrider.engine.generator import Generator
    from outrider.engine.result import Result

MODEL = "smollm2"
"""The model of the demonstration where this machine has it, and the included one elsewhere."""

INCLUDED = "tiny"

NO_TIER = "none"

QUESTIONS = (
    "Name three primary colors.",
    "Rewrite in the past tense: Anna walks to the market. She buys apples and bread. Then she goes "
    "home.",
    "Write a Python function that adds two numbers.",
)
"""Asked of a model with a chat template; the second answer copies from its question."""

WARM = 4

REPEATS = 5
SECONDS = 20.0
"""From the second run on, a run starts only if it would end within this time."""

HONEST = (
    "Drafting pays where verifying several tokens costs little more than computing one, and where "
    "drafts are accepted: most in texts that repeat or copy."
)

HONEST_OF_TINY = (
    "These models are so small that drafting may cost more than it saves on this machine. The "
    "figure that also holds for large targets is the number of tokens per target forward."
)


@dataclass(slots=True)
class Contender:
    """One strategy, and the texts of each run.

    Each run has its own generator: a drafter that remembers answers would copy those of the run
    before.
    """

    name: str
    build: "Callable[[], Generator]"
    settings: dict[str, Any]
    results: "list[list[Result]]" = field(default_factory=list)

    def run(self, prompts: Sequence[Any]) -> None:
        """Answer or continue every prompt, one after the other."""
        generator = self.build()
        warm: dict[str, Any] = self.settings | {"max_new_tokens": WARM}
        first = "Hi." if isinstance(prompts[0], str) else [{"role": "user", "content": "Hi."}]
        generator.generate(first, **warm)  # the first forwards of a model are slow
        generator.reset()
        self.results.append([generator.generate(p, **self.settings) for p in prompts])

    @property
    def texts(self) -> list[list[tuple[int, ...]]]:
        """Return the tokens of each run."""
        return [[result.token_ids for result in run] for run in self.results]

    @property
    def speed(self) -> float:
        """Return tokens per second after the prefill: the median over runs."""
        from outrider.core.metrics import ratio

        return median(
            ratio(
                sum(r.completion_tokens for r in run),
                sum(r.seconds["total"] - r.seconds["prefill"] for r in run),
            )
            for run in self.results
        )


DRAFTED = {"num_speculative_tokens": 4}
"""Fixed, because the default drafts only where it pays, and the demo must show drafts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoTiers(Tiers):
    """Options that name the models of the demonstration."""

    target: Annotated[
        str,
        option(
            panel="Models",
            help=f"The model. Default: {MODEL} where this machine has it, else {INCLUDED}.",
        ),
    ] = ""


def demo(
    tiers: DemoTiers,
    runtime: Runtime,
    tokens: Annotated[
        int | None,
        option(
            panel="Output",
            help="Most tokens to write after each prompt. Default: 100 for an answer, 32 for a "
            "continuation.",
            min=1,
        ),
    ] = None,
    color: Color = "auto",
) -> None:
    """See which tier writes which words, and how that changes the speed.

    SmolLM2 answers three questions where it is installed; else the included
    family continues two texts. Each prompt is decoded undrafted, by the default strategy, and,
    if there is a draft model, with it and with a qualifier, in turns, on one
    CPU thread unless --threads is given. Mode exact gives the same text each time.

    For example:

      outrider demo
      outrider demo --target tiny
      outrider demo --color always | less -R
    """
    screen = Screen(color)
    tiers = _tiers(tiers, screen)
    contenders, prompts = _prepared(tiers, runtime, tokens)
    begun = perf_counter()
    for done in range(1, REPEATS + 1):
        for contender in contenders:
            contender.run(list(prompts.values()))
        if done == 1:
            _show_texts(prompts, contenders, screen)
        if done > 1 and (perf_counter() - begun) * (done + 1) / done > SECONDS:
            break
    _show_table(contenders, screen)
    screen.out.print(HONEST_OF_TINY if tiers.target == INCLUDED else HONEST, highlight=False)


def _tiers(given: DemoTiers, screen: Screen) -> DemoTiers:
    """Choose the target that is not given; say in one line why it is the included family."""
    if given.target:
        return given
    from outrider.models.sources.finding import here
    from outrider.models.sources.known import known_model

    known = known_model(MODEL)
    if known is not None and here(known) is not None:
        return replace(given, target=MODEL)
    how = f"; to install it: {known.install}" if known else ""
    screen.note(f"{MODEL} is not installed, so the included family {INCLUDED} is used{how}")
    return replace(given, target=INCLUDED)


def _prepared(
    tiers: Tiers, runtime: Runtime, tokens: int | None
) -> tuple[list[Contender], dict[str, Any]]:
    """Return each strategy, and the prompts, each under the text to show for it."""
    runtime = replace(runtime, threads=runtime.threads or 1)
    codec = load_generator(tiers, runtime, mode="none").tokenizer
    asks = tiers.target != INCLUDED and codec is not None and codec.has_chat
    if asks:
        prompts: dict[str, Any] = {
            f"> {text}\n": [{"role": "user", "content": text}] for text in QUESTIONS
        }
        settings: dict[str, Any] = {"temperature": 0.0, "max_new_tokens": tokens or 100}
    else:
        prompts = {text: text for text in opening_prompts(tiers.target)}
        settings = {"temperature": 0.7, "seed": 1, "max_new_tokens": tokens or 32}
    ways = {"target alone": {"mode": "none"}, **_ways(tiers)}
    contenders = [
        Contender(name, partial(load_generator, tiers, runtime, **way), settings)
        for name, way in ways.items()
    ]
    return contenders, prompts


def _ways(tiers: Tiers) -> dict[str, dict[str, Any]]:
    """Return options of each drafted strategy that these models allow."""
    family = "family" if tiers.target == INCLUDED else NO_TIER
    draft, qualifier = tiers.draft or family, (tiers.qualifier or [family])[0]
    ways: dict[str, dict[str, Any]] = {"default": {}}
    if draft != NO_TIER:
        ways["+ draft model"] = {"qualifier": "none", **DRAFTED}
        if qualifier != NO_TIER:
            ways["+ qualifier"] = {**DRAFTED, "num_qualified_tokens": 8}
    return ways


def _show_texts(
    prompts: Mapping[str, Any], contenders: Sequence[Contender], screen: Screen
) -> None:
    """Show the texts of the last strategy, and its speed beside that without drafting."""
    first, last = contenders[0].results[0], contenders[-1].results[0]
    for prompt, undrafted, result in zip(prompts, first, last, strict=True):
        screen.write(prompt)
        screen.write_spans(result.spans())
        screen.write("\n")
        screen.legend(result.speculation.to_dict()["sources"])
        screen.note(
            f"{result.completion_tokens} tokens, {result.tokens_per_second:.1f} tokens/s in this "
            f"one run; undrafted {undrafted.tokens_per_second:.1f} tokens/s"
        )
        screen.write("\n")


def _show_table(contenders: Sequence[Contender], screen: Screen) -> None:
    runs = contenders[0].results
    screen.table(
        f"Mode exact, {len(runs[0])} prompts, median of {len(runs)} runs in turns",
        [_row(contender, contenders[0].texts) for contender in contenders],
    )


def _row(contender: Contender, expected: Any) -> dict[str, str]:
    from outrider.core import metrics

    total = metrics.total([r.speculation.target for run in contender.results for r in run])
    return {
        "tiers": contender.name,
        "tokens/s": f"{contender.speed:.1f}",
        "acceptance": f"{metrics.acceptance_rate(total):.0%}" if total.drafted else "-",
        "accepted length": f"{metrics.mean_accepted_length(total):.2f}",
        "tokens per target forward": f"{metrics.block_efficiency(total):.2f}",
        "text": "identical" if contender.texts == expected else "DIFFERS",
    }
