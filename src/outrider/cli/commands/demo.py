"""`outrider demo`: shows a pyramid in half a minute."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
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

SETTINGS: dict[str, Any] = {"temperature": 0.7, "seed": 1}
REPEATS = 5
SECONDS = 20.0
"""From the second run on, a run starts only if it would end within this time."""

HONEST = (
    "These models are so small that drafting may cost more than it saves on this machine. The "
    "figure that also holds for large targets is the number of tokens per target forward."
)


@dataclass(slots=True)
class Contender:
    """One strategy, and the texts of each run."""

    name: str
    generator: "Generator"
    results: "list[list[Result]]" = field(default_factory=list)

    def run(self, prompts: Sequence[str], tokens: int) -> None:
        """Continue every prompt, one after the other."""
        settings: dict[str, Any] = SETTINGS | {"max_new_tokens": tokens}
        self.generator.reset()
        self.results.append([self.generator.generate(p, **settings) for p in prompts])

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


def demo(
    tiers: Tiers,
    runtime: Runtime,
    tokens: Annotated[
        int, option(panel="Output", help="Tokens to write after each prompt.", min=1)
    ] = 32,
    color: Color = "auto",
) -> None:
    """See which tier writes which words, and how that changes the speed.

    The tiny family needs no download. The same prompts are decoded
    undrafted, by the default strategy, with a draft model, and with draft
    model and qualifier, in turns, on one CPU thread unless --threads is given. Mode exact
    gives the same text each time.

    For example:

      outrider demo
      outrider demo --color always | less -R
    """
    screen = Screen(color)
    prompts = opening_prompts(tiers.target)
    contenders = _contenders(tiers, runtime)
    begun = perf_counter()
    for done in range(1, REPEATS + 1):
        for contender in contenders:
            contender.run(prompts, tokens)
        if done == 1:
            _show_texts(prompts, contenders[-1].results[0], screen)
        if done > 1 and (perf_counter() - begun) * (done + 1) / done > SECONDS:
            break
    _show_table(contenders, screen)


def _contenders(tiers: Tiers, runtime: Runtime) -> list[Contender]:
    runtime = replace(runtime, threads=runtime.threads or 1)
    ways: dict[str, dict[str, Any]] = {
        "target alone": {"mode": "none"},
        "default": {},
        "+ draft model": {"qualifier": "none", **DRAFTED},
        "+ qualifier": {**DRAFTED, "num_qualified_tokens": 8},
    }
    return [Contender(name, load_generator(tiers, runtime, **way)) for name, way in ways.items()]


def _show_texts(prompts: Sequence[str], results: "Sequence[Result]", screen: Screen) -> None:
    for prompt, result in zip(prompts, results, strict=True):
        screen.write(prompt)
        screen.write_spans(result.spans())
        screen.write("\n")
        screen.legend(result.speculation.to_dict()["sources"])
        screen.write("\n")


def _show_table(contenders: Sequence[Contender], screen: Screen) -> None:
    runs = contenders[0].results
    screen.table(
        f"Mode exact, {len(runs[0])} prompts, median of {len(runs)} runs in turns",
        [_row(contender, contenders[0].texts) for contender in contenders],
    )
    screen.out.print(HONEST, highlight=False)


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
