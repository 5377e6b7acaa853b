"""The options that several commands share, each declared once.

Options that are not given are not passed on, so that the defaults of `outrider.load` and of the
checkpoint's generation_config.json apply.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from outrider.cli.options.groups import given_fields
from outrider.cli.options.numbers import share
from outrider.strategy.catalogue import MODES, names

if TYPE_CHECKING:
    from outrider.engine.generator import Generator


def option(*names: str, panel: str, help: str, **settings: Any) -> Any:
    """Declare one option, listed under the heading `panel`."""
    return typer.Option(*names, help=help, rich_help_panel=panel, **settings)


@dataclass(frozen=True, kw_only=True, slots=True)
class Runtime:
    """Options for where and how models run."""

    dtype: Annotated[
        str | None,
        option(panel="Runtime", help="Number type of the weights: auto, int8, float32, ..."),
    ] = None
    device: Annotated[
        str | None, option(panel="Runtime", help="Where the models run: auto, cpu, cuda, ...")
    ] = None
    threads: Annotated[
        int | None, option(panel="Runtime", help="CPU threads to compute with.", min=1)
    ] = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Tiers:
    """Options that name the models."""

    target: Annotated[
        str,
        option(
            panel="Models",
            help="The model whose text you want: a family name, a folder or a hub name.",
        ),
    ] = "tiny"
    qualifier: Annotated[
        list[str] | None,
        option(
            panel="Models",
            help="The middle model, which confirms drafts before the target sees them. Repeat it, "
            "largest first, for a deeper cascade; 'none' leaves it out.",
        ),
    ] = None
    draft: Annotated[
        str | None,
        option(panel="Models", help="The smallest model, which drafts; 'none' leaves it out."),
    ] = None

    def given(self) -> dict[str, Any]:
        """Return keywords of `load` without the target; a single qualifier is a name, not a
        list.
        """
        models: dict[str, Any] = {"qualifier": self.qualifier, "draft": self.draft}
        if self.qualifier and len(self.qualifier) == 1:
            models["qualifier"] = self.qualifier[0]
        return {name: model for name, model in models.items() if model}


@dataclass(frozen=True, kw_only=True, slots=True)
class Speculation:
    """Options for how drafts are made and accepted."""

    mode: Annotated[
        str | None,
        option(
            panel="Speculation",
            metavar=f"[{'|'.join(MODES)}]",
            autocompletion=lambda: list(MODES),
            help="exact: the target's own text, token for token. distribution: another sample of "
            "its distribution. assisted, fuzzy: near misses pass, and are counted. none: no "
            "drafting. Default: exact.",
        ),
    ] = None
    drafter: Annotated[
        str | None,
        option(
            panel="Speculation",
            metavar="NAME|EXPRESSION",
            autocompletion=lambda: names("drafter"),
            help="Who drafts; `outrider methods` describes them all: "
            f"{', '.join(names('drafter'))}. auto: what is expected to be fastest, decided while "
            "writing. Options in parentheses, and combinations of others: "
            "'switch(sam,recycling,at_least=5)'. Default: auto.",
        ),
    ] = None
    rule: Annotated[
        str | None,
        option(
            panel="Speculation",
            metavar="NAME|EXPRESSION",
            autocompletion=lambda: names("rule"),
            help="What the target keeps of a draft, in place of a mode: "
            f"{', '.join(names('rule'))}; with options, as 'typical(epsilon=0.2)'.",
        ),
    ] = None
    policy: Annotated[
        str | None,
        option(
            panel="Speculation",
            metavar="NAME|EXPRESSION",
            autocompletion=lambda: names("policy"),
            help=f"How much is drafted in a round: {', '.join(names('policy'))}; with options, as "
            "'confidence(threshold=0.5)'. Default: expected-gain where the mode is exact.",
        ),
    ] = None
    growth: Annotated[
        str | None,
        option(
            panel="Speculation",
            metavar="NAME|EXPRESSION",
            autocompletion=lambda: names("growth"),
            help="Let the draft model draft trees, grown in this way: "
            f"{', '.join(names('growth'))}; with options, as 'eagle2(width=6)'. With --drafter "
            "model.",
        ),
    ] = None
    num_draft_nodes: Annotated[
        int | None,
        option(
            panel="Speculation",
            help="Tokens in a tree, for drafters of trees. Default: as many as pay; 16 where "
            "lengths are fixed.",
            min=1,
        ),
    ] = None
    datastore: Annotated[
        Path | None,
        option(
            panel="Speculation",
            help="What `outrider datastore build` wrote: for the drafters rest and sam.",
            metavar="PATH",
        ),
    ] = None
    num_speculative_tokens: Annotated[
        int | None,
        option(
            panel="Speculation",
            help="Tokens the draft model proposes at a time. Default: as many as pay, decided "
            "while writing; 5 where the mode is not exact.",
        ),
    ] = None
    num_qualified_tokens: Annotated[
        int | None,
        option(
            panel="Speculation",
            help="Confirmed tokens collected before the target is called. Default: likewise; 10.",
        ),
    ] = None
    divergence: Annotated[
        str | None,
        option(panel="Speculation", help="What thresholds measure: js, tv, kl_dv, topk_js, ..."),
    ] = None
    threshold_qualifier: Annotated[
        str | None,
        option(
            panel="Speculation",
            metavar="NUMBER|PERCENT",
            help="The qualifier's tolerance of the draft model: a divergence such as 0.3, or the "
            "calibrated value that lets 80% pass.",
        ),
    ] = None
    threshold_target: Annotated[
        str | None,
        option(
            panel="Speculation",
            metavar="NUMBER|PERCENT",
            help="The target's tolerance of the qualifier, as a number or a share.",
        ),
    ] = None
    max_changed: Annotated[
        str | None,
        option(
            panel="Speculation",
            metavar="SHARE",
            help="Most tokens that may differ from the target's choice, such as 0.02 or 2%.",
        ),
    ] = None
    layer_skipping: Annotated[
        float | None,
        option(
            panel="Speculation",
            metavar="FACTOR",
            help="Write answers with so many times fewer layers of the target. The text is another "
            "than the whole model's. Default: 1, which skips none.",
        ),
    ] = None
    context_length: Annotated[
        int | None,
        option(
            panel="Runtime",
            help="Most tokens of prompt and answer; default: the target's window.",
            min=1,
        ),
    ] = None
    calibration: Annotated[
        Path | None,
        option(panel="Speculation", help="File written by `outrider calibrate`.", metavar="FILE"),
    ] = None

    def given(self) -> dict[str, Any]:
        """Return keywords of `load`; thresholds stay text, which is parsed with the calibration."""
        found = given_fields(self)
        if "max_changed" in found:
            found["max_changed"] = share("max_changed", found["max_changed"])
        return found


@dataclass(frozen=True, kw_only=True, slots=True)
class Warps:
    """Options that change the sampling distribution."""

    temperature: Annotated[
        float | None, option(panel="Sampling", help="0 takes the best token; 1 draws as trained.")
    ] = None
    top_p: Annotated[
        float | None, option(panel="Sampling", help="Keep the best tokens that hold this mass.")
    ] = None
    top_k: Annotated[
        int | None, option(panel="Sampling", help="Keep this many best tokens; 0 keeps all.")
    ] = None
    min_p: Annotated[
        float | None,
        option(panel="Sampling", help="Keep tokens at least this share as likely as the best."),
    ] = None
    typical_p: Annotated[
        float | None, option(panel="Sampling", help="Keep the locally typical tokens of this mass.")
    ] = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling(Warps):
    """Options for how tokens are chosen, and when to stop."""

    repetition_penalty: Annotated[
        float | None, option(panel="Sampling", help="Above 1: tokens already seen count less.")
    ] = None
    presence_penalty: Annotated[
        float | None, option(panel="Sampling", help="Taken off the score of tokens written before.")
    ] = None
    frequency_penalty: Annotated[
        float | None, option(panel="Sampling", help="The same, times how often they were written.")
    ] = None
    seed: Annotated[int | None, option(panel="Sampling", help="Equal seeds give equal texts.")] = (
        None
    )
    max_new_tokens: Annotated[
        int | None, option(panel="Length", help="The text is cut after this many tokens.")
    ] = None
    min_new_tokens: Annotated[
        int | None, option(panel="Length", help="No end token before this many tokens.")
    ] = None
    stop: Annotated[
        list[str] | None,
        option(panel="Length", help="Text that ends the output and is not part of it; repeatable."),
    ] = None

    def given(self) -> dict[str, Any]:
        """Return keywords of `Generator.generate`, checked as far as possible without the
        checkpoint.

        Raises:
            OptionError: a value is out of range; reported before the models are loaded.
        """
        from outrider.sampling import SamplingParams

        found = given_fields(self)
        SamplingParams.of(**{k: v for k, v in found.items() if k != "min_new_tokens"})
        return found


def load_generator(
    tiers: Tiers, runtime: Runtime, speculation: Speculation | None = None, **more: Any
) -> "Generator":
    """Load the generator that the options describe; `more` is passed to `outrider.load`."""
    from outrider.engine.load import load

    chosen = speculation.given() if speculation else {}
    return load(tiers.target, **(tiers.given() | chosen | given_fields(runtime) | more))
