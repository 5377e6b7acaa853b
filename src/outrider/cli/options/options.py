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
from outrider.strategy.catalogue import GUARD_MODES, MODES, names

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
        option(
            panel="Runtime",
            help="Dtype of the weights: auto, stored, int8, int4, bfloat16, float32, ...",
        ),
    ] = None
    cache_dtype: Annotated[
        str | None,
        option(
            panel="Runtime",
            help="Dtype of keys and values on the CPU: auto, float32, bfloat16 or int8.",
        ),
    ] = None
    device: Annotated[
        str | None, option(panel="Runtime", help="Where the models run: auto, cpu, cuda, ...")
    ] = None
    threads: Annotated[
        int | None, option(panel="Runtime", help="Number of CPU threads.", min=1)
    ] = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Tiers:
    """Options that name the models."""

    target: Annotated[
        str,
        option(
            panel="Models",
            help="The model whose text you want: a family name, a known model (smollm2), "
            "a folder or a hub name.",
        ),
    ] = "tiny"
    qualifier: Annotated[
        list[str] | None,
        option(
            panel="Models",
            help="The qualifier, which verifies drafts before the "
            "target does. Repeatable, largest first, for a deeper cascade; 'none' leaves "
            "it out.",
        ),
    ] = None
    draft: Annotated[
        str | None,
        option(
            panel="Models",
            help="The draft model, the smallest one, or the folder of a draft head; 'none' leaves "
            "it out.",
        ),
    ] = None
    draft_vocabulary: Annotated[
        int | None,
        option(
            panel="Models",
            min=1,
            metavar="TOKENS",
            help="Number of tokens that the draft model can draft. Fewer make it faster, and its "
            "drafts worse.",
        ),
    ] = None

    def given(self) -> dict[str, Any]:
        """Return keywords of `load` without the target; a single qualifier is a name, not a
        list.
        """
        models: dict[str, Any] = {
            "qualifier": self.qualifier,
            "draft": self.draft,
            "draft_vocabulary": self.draft_vocabulary,
        }
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
            "its distribution. assisted, fuzzy: tokens may differ from the target's "
            "choice, and are counted. none: no drafting. Default: exact.",
        ),
    ] = None
    drafter: Annotated[
        str | None,
        option(
            panel="Speculation",
            metavar="NAME|EXPRESSION",
            autocompletion=lambda: names("drafter"),
            help="The drafter; `outrider methods` describes all of "
            "them: "
            f"{', '.join(names('drafter'))}. auto: the drafter with the largest expected speed, "
            "chosen in each round. Options in parentheses, and combinations of others: "
            "'switch(sam,recycling,at_least=5)'. Default: auto.",
        ),
    ] = None
    rule: Annotated[
        str | None,
        option(
            panel="Speculation",
            metavar="NAME|EXPRESSION",
            autocompletion=lambda: names("rule"),
            help="The acceptance rule, instead of a mode: "
            f"{', '.join(names('rule'))}; with options, as 'typical(epsilon=0.2)'.",
        ),
    ] = None
    policy: Annotated[
        str | None,
        option(
            panel="Speculation",
            metavar="NAME|EXPRESSION",
            autocompletion=lambda: names("policy"),
            help=f"How many tokens are drafted in a round: {', '.join(names('policy'))}; with "
            "options, as 'confidence(threshold=0.5)'. Default: expected-gain in mode exact.",
        ),
    ] = None
    growth: Annotated[
        str | None,
        option(
            panel="Speculation",
            metavar="NAME|EXPRESSION",
            autocompletion=lambda: names("growth"),
            help="How the draft model grows trees: "
            f"{', '.join(names('growth'))}; with options, as 'eagle2(width=6)'. With --drafter "
            "model.",
        ),
    ] = None
    num_draft_nodes: Annotated[
        int | None,
        option(
            panel="Speculation",
            help="Tokens of a tree, for drafters of trees. Default: "
            "the number with the largest expected speed; 16 if lengths are fixed.",
            min=1,
        ),
    ] = None
    datastore: Annotated[
        Path | None,
        option(
            panel="Speculation",
            help="A store from `outrider datastore build`, for the drafters rest and sam.",
            metavar="PATH",
        ),
    ] = None
    num_speculative_tokens: Annotated[
        int | None,
        option(
            panel="Speculation",
            help="Tokens that the draft model proposes at a time. "
            "Default: the number with the largest expected speed in each round; 5 in "
            "modes other than exact.",
        ),
    ] = None
    num_qualified_tokens: Annotated[
        int | None,
        option(
            panel="Speculation",
            help="Tokens that the qualifier collects before the target "
            "is called. Default: likewise, or 10.",
        ),
    ] = None
    divergence: Annotated[
        str | None,
        option(
            panel="Speculation", help="Divergence of the thresholds: js, tv, kl_dv, topk_js, ..."
        ),
    ] = None
    threshold_qualifier: Annotated[
        str | None,
        option(
            panel="Speculation",
            metavar="NUMBER|PERCENT",
            help="The qualifier's tolerance: a divergence such as 0.3, "
            "or a share such as 80%, which a calibration converts to a divergence.",
        ),
    ] = None
    threshold_target: Annotated[
        str | None,
        option(
            panel="Speculation",
            metavar="NUMBER|PERCENT",
            help="The target's tolerance, given in the same way.",
        ),
    ] = None
    max_changed: Annotated[
        str | None,
        option(
            panel="Speculation",
            metavar="SHARE",
            help="Largest share of tokens that may differ from the "
            "target's choice, such as 0.02 or 2%.",
        ),
    ] = None
    guard: Annotated[
        str | None,
        option(
            panel="Speculation",
            metavar=f"[{'|'.join(GUARD_MODES)}]",
            autocompletion=lambda: list(GUARD_MODES),
            help="Switch drafting off where the clock shows a loss, and on again where it gains; "
            "warn: only say so. In mode exact. Default: on.",
        ),
    ] = None
    layer_skipping: Annotated[
        float | None,
        option(
            panel="Speculation",
            metavar="FACTOR",
            help="Factor by which the layers for each token of the "
            "answer are reduced. The text differs from that of the full model. Default: "
            "1, which skips none.",
        ),
    ] = None
    coprocessor: Annotated[
        Path | None,
        option(
            panel="Speculation",
            metavar="FOLDER",
            help="From `outrider train coprocessor`: latents are added to the target's cache "
            "behind each prompt, and the text differs.",
        ),
    ] = None
    denoising: Annotated[
        str | None,
        option(
            panel="Speculation",
            metavar="NAME|EXPRESSION",
            autocompletion=lambda: names("diffusion"),
            help="Which positions a masked denoiser writes in a round: "
            f"{', '.join(names('diffusion'))}; none: from left to right. Default: threshold.",
        ),
    ] = None
    context_length: Annotated[
        int | None,
        option(
            panel="Runtime",
            help="Largest number of tokens of prompt and answer; default: the target's window.",
            min=1,
        ),
    ] = None
    learn: Annotated[
        str | None,
        option(
            panel="Speculation",
            metavar="NAME|EXPRESSION",
            autocompletion=lambda: names("learner"),
            help="Train the draft model while requests run: "
            f"{', '.join(names('learner'))}; with options, as 'osd(rate=3e-4)'.",
        ),
    ] = None
    learn_folder: Annotated[
        Path | None,
        option(
            panel="Speculation",
            help="Where --learn stores the trained draft model, and where it continues.",
            metavar="FOLDER",
        ),
    ] = None
    calibration: Annotated[
        Path | None,
        option(panel="Speculation", help="File written by `outrider calibrate`.", metavar="FILE"),
    ] = None
    profile: Annotated[
        str | None,
        option(
            panel="Speculation",
            help="What `outrider tune` measured: a file, or none. Default: the newest profile that "
            "matches the models and this machine, if nothing is chosen about drafting.",
            metavar="FILE|none",
        ),
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
        float | None,
        option(panel="Sampling", help="0 chooses the best token; 1 samples without scaling."),
    ] = None
    top_p: Annotated[
        float | None,
        option(
            panel="Sampling",
            help="Keep the smallest set of best tokens with this probability mass.",
        ),
    ] = None
    top_k: Annotated[
        int | None, option(panel="Sampling", help="Keep this many best tokens; 0 keeps all.")
    ] = None
    min_p: Annotated[
        float | None,
        option(
            panel="Sampling",
            help="Keep tokens with at least this share of the best token's probability.",
        ),
    ] = None
    typical_p: Annotated[
        float | None, option(panel="Sampling", help="Keep the locally typical tokens of this mass.")
    ] = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling(Warps):
    """Options for how tokens are chosen, and when to stop."""

    repetition_penalty: Annotated[
        float | None,
        option(panel="Sampling", help="Above 1: reduces scores of tokens in prompt or output."),
    ] = None
    presence_penalty: Annotated[
        float | None,
        option(panel="Sampling", help="Subtracted from scores of tokens in the output."),
    ] = None
    frequency_penalty: Annotated[
        float | None,
        option(panel="Sampling", help="The same, multiplied by the number of occurrences."),
    ] = None
    seed: Annotated[int | None, option(panel="Sampling", help="Equal seeds give equal texts.")] = (
        None
    )
    max_new_tokens: Annotated[
        int | None, option(panel="Length", help="The text is cut after this many tokens.")
    ] = None
    min_new_tokens: Annotated[
        int | None,
        option(panel="Length", help="End tokens are not chosen before this many tokens."),
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
