"""Profiles: what `outrider tune` measured for a model on a machine, and what follows for `load`.

A profile is valid for the models, the settings and the machine that it was measured with. Its key
names them; where one part differs, nothing of the profile is used, and the difference is named.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from outrider.core.errors import OptionError, one_line, writing
from outrider.core.values import JsonValue
from outrider.kernels.cache import cache_folder, write_private
from outrider.policies.schedule import Schedule

SCHEMA = 1
"""Version of the files; those of a later version are not read."""

DRAFT, PLAIN, UNDECIDED = "draft", "don't draft", "undecided"
"""What a verdict says."""

ALL = "all"
"""The class of an arm that is meant for every prompt."""

OPTIONS = (
    "mode",
    "drafter",
    "policy",
    "growth",
    "num_speculative_tokens",
    "num_qualified_tokens",
    "num_draft_nodes",
    "max_changed",
    "rule",
)
"""Options of `load` that an arm may set."""

_NOT_A_PROFILE = "is not a profile"
_MAKE = "Make one with `outrider tune`"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileArm:
    """What is best for one class of prompts at one concurrency.

    Attributes:
        name: the strategy, as `outrider bench` names it; `none` is undrafted decoding.
        options: options of `load`; empty: those of the default.
        concurrency: requests at once.
        kind: the class of the prompts; `all`: every one.
        cap: most drafted tokens of a request in a round; None: what the policy chooses.
        speedup: over undrafted decoding: `mean`, `low`, `high`, `pairs`.
    """

    name: str
    options: Mapping[str, JsonValue] = field(default_factory=dict[str, JsonValue])
    concurrency: int = 1
    kind: str = ALL
    cap: int | None = None
    speedup: Mapping[str, JsonValue] = field(default_factory=dict[str, JsonValue])


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """The result of `outrider tune`.

    Attributes:
        key: what it is valid for: names of parts with their values.
        verdict: `draft`, `don't draft` or `undecided`.
        reason: why, in plain words with numbers.
        arms: what to use, by concurrency and class of prompts.
        finished: whether the measurement was completed.
        weak: whether there were too few prompts for a verdict that can be relied on.
        facts: what was measured on the way.
        prompts: where the prompts came from, and how many there were.
        date: when it was measured (ISO 8601).
        command: the command that measures it again.
        schema: version of the format.
    """

    key: Mapping[str, JsonValue]
    verdict: str
    reason: str
    arms: Sequence[ProfileArm]
    finished: bool = True
    weak: bool = False
    facts: Mapping[str, JsonValue] = field(default_factory=dict[str, JsonValue])
    prompts: Mapping[str, JsonValue] = field(default_factory=dict[str, JsonValue])
    date: str = ""
    command: str = "outrider tune"
    schema: int = SCHEMA

    def arm(self, concurrency: int = 1, kind: str = ALL) -> ProfileArm | None:
        """Return the arm for so many requests at once: that of the largest measured number which
        is not larger; None if there is none."""
        known = [a for a in self.arms if a.kind == kind and a.concurrency <= concurrency]
        return max(known, key=lambda a: a.concurrency) if known else None

    def load_options(self, concurrency: int = 1) -> dict[str, JsonValue]:
        """Return the options of `load` that the profile recommends; empty: the defaults."""
        arm = self.arm(concurrency)
        return {} if arm is None else dict(arm.options)

    @property
    def schedule(self) -> Schedule:
        """Most drafted tokens of a request by the number of requests at once."""
        return Schedule({arm.concurrency: arm.cap for arm in self.arms if arm.kind == ALL})

    @property
    def lossless(self) -> bool:
        """Whether no arm changes the text: others are used only where the user names them."""
        return all(
            arm.options.get("mode", "exact") in ("exact", "none")
            and not {"rule", "max_changed"} & set(arm.options)
            for arm in self.arms
        )

    def differences(self, key: Mapping[str, JsonValue]) -> list[str]:
        """List the parts of `key` that differ, such as `threads 4, now 2`."""
        return [
            f"{name} {_shown(self.key.get(name))}, now {_shown(key.get(name))}"
            for name in sorted({*self.key, *key})
            if self.key.get(name) != key.get(name)
        ]

    def to_dict(self) -> dict[str, JsonValue]:
        """Return plain data for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: JsonValue, where: str) -> "Profile":
        """Read plain data.

        Args:
            data: what `to_dict` returned.
            where: the file, for errors.

        Raises:
            OptionError: it is not a profile, or one of a later version.
        """
        where = one_line(where)
        if not isinstance(data, dict) or not _whole(data.get("schema")):
            raise OptionError(f"{where} {_NOT_A_PROFILE}", hint=_MAKE)
        if data["schema"] > SCHEMA:
            raise OptionError(
                f"{where} is a profile of version {data['schema']}, and this Outrider reads "
                f"version {SCHEMA}",
                hint="Use a newer Outrider, or make a new profile with `outrider tune`",
            )
        try:
            json.dumps(data, allow_nan=False)  # all numbers are finite
            arms = [ProfileArm(**arm) for arm in data["arms"]]
            profile = cls(**{**data, "arms": arms})
            _check(profile)
        except (TypeError, KeyError, ValueError, AttributeError, RecursionError):
            raise OptionError(f"{where} {_NOT_A_PROFILE}", hint=_MAKE) from None
        return profile

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Profile":
        """Read a file. Raises `OptionError` if it is missing or not a profile."""
        where = one_line(os.fspath(path))
        try:
            data = json.loads(_expanded(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise OptionError(
                f"profile {where} cannot be read: {error.strerror}", hint=_MAKE
            ) from None
        except (ValueError, RecursionError):
            raise OptionError(f"{where} {_NOT_A_PROFILE}", hint=_MAKE) from None
        return cls.from_dict(data, where)

    def save(self, path: str | os.PathLike[str] | None = None) -> Path:
        """Write the profile in one step; return the file.

        Args:
            path: the file; None is the place where `load` finds it.

        Raises:
            OptionError: the file cannot be written, or a value does not fit JSON.
        """
        file = self.place if path is None else _expanded(path)
        try:
            text = json.dumps(self.to_dict(), indent=1, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise OptionError(
                f"the profile cannot be written: {error}", hint="Give finite numbers and plain data"
            ) from None
        with writing(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            write_private(file, text.encode("utf-8") + b"\n")
        return file

    @property
    def place(self) -> Path:
        """The file where `load` looks for a profile of this key."""
        return folder_of(str(self.key.get("target"))) / f"{name_of_key(self.key)}.json"


def folder_of(fingerprint: str) -> Path:
    """Return the folder of the profiles of one target, which may not exist."""
    return cache_folder() / "profiles" / fingerprint


def name_of_key(key: Mapping[str, JsonValue]) -> str:
    """Return a short name of a key: equal keys have equal names."""
    import hashlib

    text = json.dumps(key, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _expanded(path: str | os.PathLike[str]) -> Path:
    """Expand `~`. Raises `OptionError` if there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise OptionError(
            f"{one_line(os.fspath(path))} names no home folder", hint="Give the whole path"
        ) from None


def _check(profile: Profile) -> None:
    """Raise `ValueError` for values that a profile cannot hold."""
    dicts = (profile.key, profile.facts, profile.prompts)
    texts = (profile.verdict, profile.reason, profile.date, profile.command)
    right = (
        all(isinstance(own, dict) for own in dicts)
        and all(isinstance(own, str) for own in texts)
        and isinstance(profile.finished, bool)
        and isinstance(profile.weak, bool)
        and all(map(_is_arm, profile.arms))
    )
    if not right:
        raise ValueError("not a profile")
    if profile.verdict not in (DRAFT, PLAIN, UNDECIDED):
        raise ValueError("unknown verdict")
    _ = profile.schedule  # evaluated for its checks


def _is_arm(arm: ProfileArm) -> bool:
    """Whether the values of an arm are of the right kinds."""
    options, speedup = arm.options, arm.speedup
    if not isinstance(options, dict) or not isinstance(speedup, dict):
        return False
    return (
        isinstance(arm.name, str)
        and isinstance(arm.kind, str)
        and _whole(arm.concurrency)
        and (arm.cap is None or _whole(arm.cap, least=0))
        and set(options) <= set(OPTIONS)
        and all(own is None or isinstance(own, str | int | float) for own in options.values())
        and all(own is None or isinstance(own, int | float) for own in speedup.values())
    )


def _whole(value: JsonValue, least: int = 1) -> bool:
    """Whether a value is a whole number of at least `least`; `True` is none."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _shown(value: JsonValue) -> str:
    return "missing" if value is None else one_line(str(value))
