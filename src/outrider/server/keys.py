"""Keys of the server: who may ask, under which name and class."""

import hashlib
import hmac
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

from outrider.core.checks import Range
from outrider.core.errors import OptionError

VARIABLE = "OUTRIDER_API_KEYS"
"""Environment variable with keys: `KEY` or `NAME=KEY`, separated by commas."""

_RATE = Range(0.0, 1e9, above=True, optional=True)
_CLASS = Range(-(2**31), 2**31, whole=True)
_FIELDS = ("key", "sha256", "class", "requests_per_minute")
_SHAPE = 'Give a table for each key: [name] with key = "..." or sha256 = "..."'


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One key.

    Attributes:
        name: the name in logs, and the principal among whom the engine is shared.
        digest: SHA-256 of the key.
        priority: the class: the smallest priority that its requests may have.
        requests_per_minute: how many requests it may send; None sets no limit.
    """

    name: str
    digest: bytes
    priority: int = 0
    requests_per_minute: float | None = None


@dataclass(slots=True)
class Keys:
    """All keys of a server. Without any, every request is let in."""

    keys: tuple[Key, ...] = ()
    _spent: dict[str, tuple[float, float]] = field(default_factory=dict[str, tuple[float, float]])

    def __bool__(self) -> bool:
        return bool(self.keys)

    def find(self, given: str) -> Key | None:
        """Return the key with this text, or None.

        All digests are compared, and each in constant time, so that the time says nothing.
        """
        digest = hashlib.sha256(given.encode("utf-8", "surrogateescape")).digest()
        found = None
        for key in self.keys:
            if hmac.compare_digest(digest, key.digest):
                found = key
        return found

    def wait(self, key: Key) -> float:
        """Count a request of this key; return the seconds until it is allowed, 0 if it is now."""
        rate = key.requests_per_minute
        if rate is None:
            return 0.0
        now = monotonic()
        left, last = self._spent.get(key.name, (max(rate, 1.0), now))
        left = min(left + (now - last) * rate / 60, max(rate, 1.0))
        allowed = left >= 1
        self._spent[key.name] = (left - 1 if allowed else left, now)
        return 0.0 if allowed else (1 - left) * 60 / rate


def load_keys(file: Path | None, environment: Mapping[str, str] = os.environ) -> Keys:
    """Read keys from a file and from the environment.

    Args:
        file: a TOML file with a table for each key: `[name]` with `key` or `sha256` (hexadecimal),
            and optionally `class` and `requests_per_minute`.
        environment: holds `OUTRIDER_API_KEYS`.

    Raises:
        OptionError: the file cannot be read, or an entry is wrong.
    """
    keys = [*_from_file(file)] if file is not None else []
    keys += _from_text(environment.get(VARIABLE, ""))
    names = [key.name for key in keys]
    for name in names:
        if names.count(name) > 1:
            raise OptionError(f"two keys have the name {name!r:.60}", hint="Rename one of them")
    return Keys(tuple(keys))


def _from_text(text: str) -> Sequence[Key]:
    found: list[Key] = []
    for number, entry in enumerate(filter(None, (part.strip() for part in text.split(","))), 1):
        name, equals, secret = entry.partition("=")
        if not equals:
            name, secret = f"key{number}", entry
        found.append(Key(name=name, digest=_digest(secret)))
    return found


def _from_file(file: Path) -> Sequence[Key]:
    try:
        tables = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise OptionError(f"{file} cannot be read: {error.strerror or error}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise OptionError(f"{file} is not TOML: {error}", hint=_SHAPE) from None
    if not tables:
        raise OptionError(f"{file} holds no keys", hint=_SHAPE)
    return [_entry(name, table, file) for name, table in tables.items()]


def _entry(name: str, table: Any, file: Path) -> Key:
    """Read one table. Messages never show a key."""
    if not isinstance(table, dict) or set(table) - {*_FIELDS}:
        wrong = ", ".join(sorted(set(table) - {*_FIELDS})) if isinstance(table, dict) else "a value"
        raise OptionError(f"the key {name!r:.60} in {file} has {wrong}", hint=_SHAPE)
    _CLASS.check(f"the class of {name}", table.get("class", 0))
    _RATE.check(f"requests_per_minute of {name}", table.get("requests_per_minute"))
    return Key(
        name=name,
        digest=_digest_of(name, table, file),
        priority=table.get("class", 0),
        requests_per_minute=table.get("requests_per_minute"),
    )


def _digest_of(name: str, table: Mapping[str, Any], file: Path) -> bytes:
    secret, digest = table.get("key"), table.get("sha256")
    if isinstance(secret, str) and secret and digest is None:
        return _digest(secret)
    if isinstance(digest, str) and secret is None:
        try:
            raw = bytes.fromhex(digest)
        except ValueError:
            raw = b""
        if len(raw) == hashlib.sha256().digest_size:
            return raw
    raise OptionError(
        f"the key {name!r:.60} in {file} has neither a key nor a SHA-256 digest", hint=_SHAPE
    )


def _digest(secret: str) -> bytes:
    if not secret:
        raise OptionError("a key is empty", hint=f"Check the file, and {VARIABLE}")
    return hashlib.sha256(secret.encode()).digest()
