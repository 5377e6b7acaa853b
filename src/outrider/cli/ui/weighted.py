"""Whole texts that are sampled under a grammar: `outrider generate --particles`."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer

from outrider.cli.ui import interrupt
from outrider.cli.ui.render import Screen, print_json
from outrider.core.errors import OptionError

if TYPE_CHECKING:
    from outrider.engine.generator import Generator
    from outrider.engine.particles.posterior import Posterior


def check_particles(settings: Mapping[str, Any], others: Mapping[str, bool]) -> None:
    """Check the options of a call with `--particles`.

    Args:
        settings: the options of sampling.
        others: options that cannot be combined with it -> whether they are given.

    Raises:
        OptionError: an option cannot be combined with it, or no grammar is given.
    """
    for name, given in others.items():
        if given:
            raise OptionError(f"{name} is given beside --particles", hint="Leave one of them out")
    if "constraint" not in settings:
        raise OptionError(
            "--particles is given without a grammar of the text",
            hint="Give one, such as --choice, --regex or --json-schema",
        )


def run_particles(
    generator: "Generator", request: Any, count: int, settings: Mapping[str, Any]
) -> "Posterior":
    """Sample whole texts; Ctrl-C ends all of them after the current token."""
    from outrider.engine.particles.posterior import posterior
    from outrider.engine.particles.sampling import ParticleOptions, particles_of

    options = ParticleOptions(particles=count)
    run = particles_of(generator, generator.prompt(request), options, settings)
    with interrupt.cancelling(run.cancel, lambda: bool(run.steps)):
        run.run()
    return posterior(run)


def print_particles(found: "Posterior", screen: Screen, json: bool, notes: Sequence[str]) -> None:
    """Print one text, drawn by weight, and the figures of all; or one JSON object.

    Raises:
        typer.Exit: after Ctrl-C.
    """
    if json:
        print_json(found.to_dict())
    else:
        screen.write(found.draw().text + "\n")
        count = len(found.texts)
        screen.note(
            f"{found.exactness}, {count} different text{'s' if count > 1 else ''}, "
            f"effective size {found.effective_size:.1f}, log evidence {found.log_evidence:.2f}"
        )
        cut = sum(one.weight for one in found.particles if one.finish_reason == "length")
        if cut:
            screen.note(f"{cut:.0%} of the weight is unfinished texts; raise --max-new-tokens")
        for note in filter(None, notes):
            screen.note(note)
    if any(one.finish_reason == "cancelled" for one in found.particles):
        raise typer.Exit(interrupt.EXIT_CODE)
