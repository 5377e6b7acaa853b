"""Which profile of `outrider tune` a call of `load` uses, if any.

The default, `auto`, takes a profile only where the user has chosen nothing about drafting, and only
one whose key matches in every part: it then names what is used in the log. A profile that does not
match is not used in part: one line says what differs, and which command measures again. It is a
warning for a profile that is named, and a line of the log for one in the cache.
"""

import logging
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from outrider import kernels
from outrider.core.errors import OptionError, OutriderError, OutriderWarning, one_line
from outrider.core.values import JsonValue
from outrider.core.version import __version__
from outrider.engine.learners.learning import Learning
from outrider.engine.options import Caching, Models, Reading, Runtime
from outrider.kernels.compile import hash_of
from outrider.kernels.library import cores
from outrider.kernels.machine import cpu_name
from outrider.models.checkpoints.opening import open_checkpoint
from outrider.models.devices import resolve_device
from outrider.models.loading import ModelSource, load_model
from outrider.models.sources.finding import local_folder
from outrider.strategy.profile import Profile, folder_of
from outrider.strategy.recipe import Speculation

GivenProfile = str | Path | Profile
"""`auto`, `none`, a file, or a profile."""

AUTO, NONE = "auto", "none"

_LOG = logging.getLogger("outrider")
_STACK = 4
"""Calls from the warning to the caller of `load`, for a profile that is named; one more for the
cache."""


def profile_key(models: Models, runtime: Runtime) -> dict[str, JsonValue]:
    """Return what a profile is valid for: the models, how they run, and the machine.

    Reads headers of checkpoints, and no weights. Raises `CheckpointError` if there is no model.
    """
    tiers = models.sources(undrafted=False)
    device = resolve_device(runtime.device)
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "target": _fingerprint(tiers[0][1]),
        "drafts": {name: _fingerprint(source) for name, source in tiers[1:]},
        "draft_vocabulary": models.draft_vocabulary,
        "dtype": runtime.dtype,
        "cache_dtype": runtime.cache_dtype,
        "threads": runtime.threads,
        "device": str(device),
        "gpu": gpu,
        "cpu": cpu_name(),
        "cores": cores(),
        "kernels": hash_of("")[:8] if kernels.available() else None,
        "outrider": ".".join(__version__.split(".")[:2]),
    }


def _fingerprint(source: ModelSource) -> str:
    if isinstance(source, str | Path):
        return open_checkpoint(local_folder(source)).fingerprint
    return load_model(source).info.fingerprint


def profile_for(
    given: GivenProfile,
    models: Models,
    speculation: Speculation,
    runtime: Runtime,
    reading: Reading,
    learning: Learning,
) -> tuple[Profile | None, Speculation]:
    """Return the profile that these options use, if any, and the options of drafting with it.

    Raises:
        OptionError: a profile is named that cannot be read or used, or beside other choices about
            drafting.
    """
    if not isinstance(given, str | Path | Profile):
        raise OptionError(f"profile is {given!r:.60}", hint="Give a file, a Profile, auto or none")
    if given == NONE:
        return None, speculation
    other = _chosen(models, speculation, runtime, reading, learning)
    if given == AUTO:
        return (None, speculation) if other else _cached(models, speculation, runtime)
    profile, what = _named(given)
    if other:
        raise OptionError(f"a profile and {other} are both given", hint="Give only one of the two")
    key = profile_key(models, runtime)
    if profile.differences(key):
        _warn(f"{what} {_differing(profile, key)}")
        return None, speculation
    try:
        followed = replace(speculation, **profile.load_options())
    except OptionError as error:
        raise OptionError(
            f"{what} cannot be used: {one_line(error.problem)}",
            hint=f"Measure again: {one_line(profile.command)}",
        ) from None
    _tell(profile, what)
    return profile, followed


def _named(given: str | Path | Profile) -> tuple[Profile, str]:
    """Return the profile that the user gives, with words for it. Raises `OptionError`."""
    what = "the profile that is given"
    if not isinstance(given, Profile):
        return Profile.load(given), one_line(f"the profile {given}")
    Profile.from_dict(given.to_dict(), what)  # its values were not checked before
    return given, what


def _chosen(
    models: Models,
    speculation: Speculation,
    runtime: Runtime,
    reading: Reading,
    learning: Learning,
) -> str | None:
    """Name what the user has chosen that a profile does not know; None: nothing."""
    if replace(speculation, guard=Speculation.guard) != Speculation():  # it fits every profile
        return "options of drafting"
    if reading.coprocessor is not None:
        return "a coprocessor"
    if reading != Reading():
        return "a selection, guidance or layer skipping"
    if runtime.caching != Caching():
        return "a policy of the cache"
    if models.adapter is not None:
        return "an adapter"
    return None if learning == Learning() else "learning"


def _cached(
    models: Models, speculation: Speculation, runtime: Runtime
) -> tuple[Profile | None, Speculation]:
    """Return the newest profile in the cache that matches, finished ones first. One that cannot be
    used is ignored with a warning: it must not stop a `load` that does not name it."""
    try:
        if not folder_of("x").parent.is_dir():
            return None, speculation  # nothing was ever tuned: no checkpoint is read for it
        key = profile_key(models, runtime)
        files = sorted(folder_of(str(key["target"])).glob("*.json"))
    except (OSError, OutriderError):
        return None, speculation  # what is wrong with the models is reported when they are loaded
    found: list[tuple[Profile, Path]] = []
    for file in files:
        try:
            found.append((Profile.load(file), file))
        except OptionError as error:
            text = f"{error.problem}: it is ignored. Remove it, or measure again: outrider tune"
            _warn(text, _STACK + 1)
    found.sort(key=lambda one: (one[0].finished, one[0].date), reverse=True)
    matching = [one for one in found if not one[0].differences(key) and one[0].lossless]
    for profile, file in matching:
        try:
            followed = replace(speculation, **profile.load_options())
        except OptionError as error:
            text = one_line(
                f"the profile {file} is ignored: {error.problem}. Remove it, or measure again: "
                f"{profile.command}"
            )
            _warn(text, _STACK + 1)
            continue
        _tell(profile, "the profile in the cache")
        return profile, followed
    if found and not matching:
        # no warning: after a tuning, every call with another data type would have one
        newest = max((profile for profile, _ in found), key=lambda profile: profile.date)
        if newest.differences(key):
            _LOG.info("the newest profile in the cache %s", _differing(newest, key))
    return None, speculation


def _differing(profile: Profile, key: Mapping[str, JsonValue]) -> str:
    """Say what differs, and how to measure again."""
    return (
        f"is not used: it was measured with {'; '.join(profile.differences(key)[:3])}. "
        f"Measure again: {one_line(profile.command)}"
    )


def _tell(profile: Profile, what: str) -> None:
    """Say in the log what is used."""
    arm = profile.arm()
    name = "auto" if arm is None or not arm.options else arm.name
    words = (what, profile.date[:10], name, profile.verdict)
    _LOG.info("%s of %s: %s (%s)", *map(one_line, words))


def _warn(text: str, stack: int = _STACK) -> None:
    warnings.warn(text, OutriderWarning, stacklevel=stack)
