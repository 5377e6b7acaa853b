"""Options of the `outrider bench` commands, and their conversion to settings."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from outrider.cli.options.caching import Caching
from outrider.cli.options.groups import given_fields
from outrider.cli.options.guiding import Guiding
from outrider.cli.options.options import option
from outrider.core.errors import OptionError
from outrider.strategy.catalogue import GUARD_MODES

if TYPE_CHECKING:
    from outrider.bench.rivals.rival import Rival
    from outrider.bench.settings import Settings

MODELS, WORK, SAMPLING = "Models", "What is measured", "Sampling"

GivenQualifier = Annotated[
    str | None, option(panel=MODELS, help="The middle model; 'none' leaves out that of a family.")
]
GivenDraft = Annotated[
    str | None, option(panel=MODELS, help="The smallest model; 'none' leaves it out.")
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Costs:
    """Options for the target, its cost scale and its precision."""

    target: Annotated[
        str | None,
        option(panel=MODELS, help="The same as MODEL: a family name, a folder or a hub name."),
    ] = None
    cost_scale: Annotated[
        str | None,
        option(
            panel=MODELS,
            metavar="30M|x4",
            help="Scale the cost of the target to this many "
            "parameters, or to a multiple of its own, without changing its outputs. All "
            "figures are labelled.",
        ),
    ] = None
    dtype: Annotated[
        str | None,
        option(panel=MODELS, help="Dtype of the weights: auto, float32, int8, ..."),
    ] = None
    cache_dtype: Annotated[
        str | None,
        option(panel=MODELS, help="Dtype of keys and values: auto, float32, bfloat16, int8."),
    ] = None
    device: Annotated[
        str | None, option(panel=MODELS, help="Where the models run: auto, cpu, cuda, ...")
    ] = None
    threads: Annotated[
        int | None, option(panel=MODELS, help="CPU threads, the same for every system.", min=1)
    ] = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Drafts:
    """Options for the smaller models."""

    qualifier: GivenQualifier = None
    draft: GivenDraft = None
    cost_scale_qualifier: Annotated[
        str | None, option(panel=MODELS, metavar="10M|x4", help="The same for the qualifier.")
    ] = None
    cost_scale_draft: Annotated[
        str | None, option(panel=MODELS, metavar="2M|x4", help="The same for the draft model.")
    ] = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """Options for strategies, workloads and repeats."""

    strategies: Annotated[
        str | None,
        option(
            panel=WORK,
            metavar="NAME[:KEY=VALUE,...],...",
            help="none, draft, pyramid, lookup, auto, distribution, assisted, fuzzy; with options "
            "of `outrider.load`, such as draft:k=4 or fuzzy:max_changed=2%. The undrafted baseline "
            "always takes part. Default: every exact one that the models allow.",
        ),
    ] = None
    workloads: Annotated[
        str | None,
        option(
            panel=WORK,
            metavar="NAME|FILE,...",
            help="stories, dialogue, qa, copy, or files of JSON lines with prompt, text, messages "
            "or turns (Spec-Bench's format). Default: the four.",
        ),
    ] = None
    config: Annotated[
        Path | None,
        option(
            panel=WORK,
            metavar="FILE",
            help="A TOML file with these options (underscores for "
            "dashes) and a table "
            "\\[strategies.NAME] for each strategy. Command-line options have priority.",
        ),
    ] = None
    prompts: Annotated[
        int | None, option(panel=WORK, help="Prompts of each workload. Default: 8.", min=1)
    ] = None
    repeats: Annotated[
        int | None,
        option(
            panel=WORK, help="Number of times that each system writes each text. Default: 3.", min=1
        ),
    ] = None
    least_tokens: Annotated[
        int | None,
        option(
            panel=WORK,
            help="Texts shorter than this are left out of the figures. Default: 8.",
            min=1,
        ),
    ] = None
    guard: Annotated[
        str | None,
        option(
            panel=WORK,
            metavar=f"[{'|'.join(GUARD_MODES)}]",
            help="The guard of drafting in every strategy that does not set it. Default: on.",
        ),
    ] = None
    rivals: Annotated[
        bool,
        option(
            "--rivals",
            panel=WORK,
            help="Measure Hugging Face, llama.cpp and OpenVINO in the same run; for "
            "missing ones, the install command is printed.",
        ),
    ] = False
    rival: Annotated[
        list[str] | None,
        option(panel=WORK, metavar="NAME", help="Only this rival; repeatable."),
    ] = None
    max_new_tokens: Annotated[
        int | None,
        option(panel=SAMPLING, help="Each text is cut after this many tokens. Default: 64."),
    ] = None
    temperature: Annotated[
        float | None, option(panel=SAMPLING, help="0, the default, chooses the best token.")
    ] = None
    top_p: Annotated[
        float | None,
        option(
            panel=SAMPLING, help="Keep the smallest set of best tokens with this probability mass."
        ),
    ] = None
    top_k: Annotated[
        int | None, option(panel=SAMPLING, help="Keep this many best tokens; 0 keeps all.")
    ] = None
    seed: Annotated[int | None, option(panel=SAMPLING, help="Seed of every text. Default: 1.")] = (
        None
    )
    ignore_eos: Annotated[
        bool,
        option(
            "--ignore-eos",
            panel=SAMPLING,
            help="Continue after an end token, so that every text has --max-new-tokens tokens.",
        ),
    ] = False


def model_options(model: str | None, *groups: Any) -> dict[str, Any]:
    """Collect the options that the user set in these groups, with MODEL as the target.

    Raises:
        OptionError: MODEL and --target are both given.
    """
    given = {name: value for group in groups for name, value in given_fields(group).items()}
    if model is not None and "target" in given:
        raise OptionError(
            f"MODEL is {model!r} and --target is {given['target']!r}", hint="Give only one of them"
        )
    return given if model is None else given | {"target": model}


def bench_settings(
    model: str | None,
    costs: Costs,
    drafts: Drafts,
    work: Work,
    guiding: Guiding,
    caching: Caching,
) -> "Settings":
    """Build the settings of a run: the config file, overridden by the command line."""
    from outrider.bench.config import make_settings, read_config

    config = read_config(work.config) if work.config else {}
    given = model_options(model, costs, drafts, work) | caching.given()
    given.pop("config", None)
    if (recipe := guiding.recipe()) is not None:
        given["guidance"] = str(recipe)
    if not given["ignore_eos"]:
        del given["ignore_eos"]  # not given, so a config file can set it
    asked, named = given.pop("rivals", False), given.pop("rival", None)
    if named or asked:
        given["rivals"] = tuple(_known_rivals(named))
    return make_settings(given, config)


def rivals_of(settings: "Settings") -> "dict[str, Rival]":
    """Return the rivals that the settings name."""
    if not settings.rivals:
        return {}
    from outrider.bench.rivals import rivals

    known = rivals()
    _known_rivals(settings.rivals)
    return {name: known[name] for name in settings.rivals}


def _known_rivals(names: "Any") -> list[str]:
    """Return all rivals, or the named ones. Raises `OptionError` for an unknown one."""
    from outrider.bench.rivals import rivals
    from outrider.core.errors import reject_unknown

    known = rivals()
    reject_unknown("rival", names or (), known)
    return list(names or known)


Model = Annotated[
    str | None,
    typer.Argument(help="A family name, a folder or a hub name. Default: tiny."),
]
Json = Annotated[
    bool, option("--json", panel="Output", help="Print JSON lines, the summary last; no tables.")
]
Out = Annotated[
    Path | None,
    option(
        panel="Output",
        metavar="DIR|FILE.jsonl",
        help="DIR stores every run, and the same command continues "
        "an interrupted one. FILE.jsonl receives the JSON lines at the end.",
    ),
]
ReportTo = Annotated[
    Path | None,
    option("--report", panel="Output", metavar="DIR", help="Write plots and one HTML page here."),
]
