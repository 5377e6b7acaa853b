"""Generators of masked denoisers, which write the positions of a text in any order."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from outrider.core.errors import OptionError
from outrider.diffusion.rule import Diffusion
from outrider.engine.learners.learning import Learning
from outrider.engine.options import NO_TIER, Models, Reading, Runtime, is_family
from outrider.models.denoisers.loading import is_denoiser
from outrider.models.denoisers.next_token import NextToken
from outrider.models.loading import ModelSource
from outrider.models.sources.families import family
from outrider.models.sources.finding import local_folder
from outrider.strategy.making import GivenDenoising, make_denoising
from outrider.strategy.recipe import Speculation

DEFAULT = "threshold"
"""The commit rule, if none is given."""

DENOISED = "denoising"
"""The mode that results report."""

LEFT_TO_RIGHT = "none"
"""Value of `denoising` with which a denoiser predicts the next token only, as other models do."""


def denoises(source: ModelSource) -> bool:
    """Whether a target is a masked denoiser; a folder is not loaded for that."""
    if isinstance(source, NextToken):
        return True
    if is_family(source):
        return is_denoiser(family(source)["target"])
    return isinstance(source, str | Path) and is_denoiser(local_folder(source))


@dataclass(frozen=True, slots=True)
class Groups:
    """The options of `load` in groups, without `denoising`."""

    models: Models
    speculation: Speculation
    runtime: Runtime
    reading: Reading
    learning: Learning


def rule_for(denoising: GivenDenoising, groups: Groups) -> Diffusion | None:
    """Return the commit rule of a target; None: it writes from left to right.

    Args:
        denoising: the option of `load`.
        groups: its other options.

    Raises:
        OptionError: the target is no masked denoiser, there is no such rule, or an option is given
            that masked denoisers do not have.
    """
    target = groups.models.target
    name = target if isinstance(target, str | Path) else "the target"
    if not denoises(target):
        if denoising is None:
            return None
        raise OptionError(
            f"denoising is {denoising!s:.60}, and {name} is no masked denoiser",
            hint="Leave it out, or give a masked denoiser, such as tiny-diffusion",
        )
    if denoising == LEFT_TO_RIGHT or (denoising is None and groups.speculation.mode == "none"):
        return None
    rule = make_denoising(DEFAULT if denoising is None else denoising)
    for option, value in _given(groups).items():
        raise OptionError(
            f"{option} is {value!s:.60}, and {name} is a masked denoiser, which writes without "
            "drafts",
            hint=f"Leave {option} out, or give denoising=none to write from left to right",
        )
    return rule


def _given(groups: Groups) -> Mapping[str, object]:
    """Return the options that are given and that denoisers do not have."""
    models, runtime, reading = groups.models, groups.runtime, groups.reading
    speculation, plain = groups.speculation, Speculation()
    found: dict[str, object] = {
        name: value
        for name, value in (
            ("qualifier", models.qualifier),
            ("draft", models.draft),
            ("draft_vocabulary", models.draft_vocabulary),
            ("adapter", models.adapter),
            ("kv_policy", runtime.caching.target),
            ("draft_kv_policy", runtime.caching.drafts),
            ("selection", reading.selection),
            ("guidance", reading.recipe),
            ("coprocessor", reading.coprocessor),
            ("learn", groups.learning.learn),
        )
        if value is not None and value != NO_TIER
    }
    if reading.layer_skipping != 1.0:
        found["layer_skipping"] = reading.layer_skipping
    for name in _OF_DRAFTS:
        if (value := getattr(speculation, name)) != getattr(plain, name):
            found[name] = value
    return found


_OF_DRAFTS = (
    "mode",
    "drafter",
    "rule",
    "policy",
    "growth",
    "num_speculative_tokens",
    "num_qualified_tokens",
    "num_draft_nodes",
    "datastore",
    "threshold_qualifier",
    "threshold_target",
    "max_changed",
)
