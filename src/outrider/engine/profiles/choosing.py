"""Which profile of `outrider tune` a call of `load` uses, if any.

The default, `auto`, takes a profile only where the user has chosen nothing about drafting, and only
one whose key matches in every part: it then names what is used. A profile that does not match is
not used in part: one line says what differs, and which command measures again.
"""

import logging
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch

from outrider import kernels
from outrider.core.errors import OptionError, OutriderError, OutriderWarning
from outrider.core.values import JsonValue
from outrider.core.version import __version__
from outrider.engine.learners.learning import Learning
from outrider.engine.options import Models, Reading, Runtime
from outrider.kernels.compile import hash_of
from outrider.kernels.machine import cpu_name, usable_cores
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
"""Calls between the warning and the caller of `load`."""


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
        "cores": usable_cores(),
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
) -> Profile | None:
    """Return the profile that these options use; None: none.

    Raises:
        OptionError: a profile is named that cannot be read, or beside other choices about drafting.
    """
    if given == NONE:
        return None
    other = _chosen(models, speculation, reading, learning)
    if given == AUTO:
        return None if other else _found(models, runtime)
    profile = given if isinstance(given, Profile) else Profile.load(given)
    if other:
        raise OptionError(f"a profile and {other} are both given", hint="Give only one of the two")
    return _used(profile, profile_key(models, runtime), "the profile that is given")


def _chosen(
    models: Models, speculation: Speculation, reading: Reading, learning: Learning
) -> str | None:
    """Name what the user has chosen that a profile does not know; None: nothing."""
    if speculation != Speculation():
        return "options of drafting"
    if reading != Reading():
        return "a selection, guidance or layer skipping"
    if models.adapter is not None:
        return "an adapter"
    return None if learning == Learning() else "learning"


def _found(models: Models, runtime: Runtime) -> Profile | None:
    """Return the newest profile of the target in the cache, if it matches."""
    try:
        if not folder_of("x").parent.is_dir():
            return None  # nothing was ever tuned: no checkpoint is read for it
        key = profile_key(models, runtime)
        files = sorted(folder_of(str(key["target"])).glob("*.json"))
    except (OSError, OutriderError):
        return None  # what is wrong with the models is reported when they are loaded
    profiles: list[Profile] = []
    for file in files:
        try:
            profiles.append(Profile.load(file))
        except OptionError as error:
            _warn(f"{error.problem}: it is ignored")
    matching = [p for p in profiles if not p.differences(key) and p.lossless]
    if matching:
        return _used(max(matching, key=lambda p: p.date), key, "the profile in the cache")
    if profiles:
        _used(max(profiles, key=lambda p: p.date), key, "the newest profile in the cache")
    return None


def _used(profile: Profile, key: Mapping[str, JsonValue], what: str) -> Profile | None:
    """Return the profile if it matches, and say what it does; else say what differs."""
    differing = profile.differences(key)
    if differing:
        _warn(
            f"{what} is not used: it was measured with {'; '.join(differing[:3])}. "
            f"Measure again: {profile.command}"
        )
        return None
    arm = profile.arm()
    name = "auto" if arm is None or not arm.options else arm.name
    _LOG.info("%s of %s: %s (%s)", what, profile.date[:10], name, profile.verdict)
    return profile


def _warn(text: str) -> None:
    warnings.warn(text, OutriderWarning, stacklevel=_STACK)
