"""Reads settings from a TOML file and from keywords, in one namespace.

target = "tiny"
cost_scale = "30M"
workloads = ["stories", "questions.jsonl"]
repeats = 5
temperature = 0.8

[strategies.two-tier]
recipe = "draft"
num_speculative_tokens = 4
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from outrider.bench.settings import Models, Settings
from outrider.bench.strategies import Named, from_table, parse_strategies
from outrider.core.checks import AT_LEAST_ONE
from outrider.core.errors import OptionError, reject_unknown
from outrider.models.sources.families import families_folder
from outrider.policies.guard import check_mode

SAMPLING = ("temperature", "top_p", "top_k", "min_p", "max_new_tokens", "seed", "ignore_eos")
_MODELS = tuple(f.name for f in fields(Models))
_PLAIN = ("prompts", "repeats", "least_tokens")
KEYS = (*_MODELS, *SAMPLING, *_PLAIN, "strategies", "workloads", "rivals", "guard")


def read_config(file: Path) -> dict[str, Any]:
    """Read the keys of a config file; refuse unknown ones."""
    try:
        config = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise OptionError(f"{file} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise OptionError(f"{file} is not valid TOML: {error}") from None
    reject_unknown(f"key in {file.name}:", config, KEYS)
    return config


def make_settings(given: Mapping[str, Any], defaults: Mapping[str, Any] | None = None) -> Settings:
    """Build settings from values named as in `KEYS`.

    Raises:
        OptionError: a value is of the wrong kind or out of range.
    """
    values = {**(defaults or {}), **given}
    models = Models(
        **{name: _model_value(name, values[name]) for name in _MODELS if name in values}
    )
    plain = {name: _whole(name, values[name]) for name in _PLAIN if name in values}
    return Settings(
        models=models,
        strategies=_guarded(_strategies(values.get("strategies"), models), values.get("guard")),
        workloads=_names("workloads", values["workloads"]) if "workloads" in values else _ALL,
        rivals=_names("rivals", values.get("rivals", ())),
        sampling={name: values[name] for name in SAMPLING if name in values},
        **plain,
    )


_ALL = Settings.__dataclass_fields__["workloads"].default


def default_strategies(models: Models) -> str:
    """Return every strategy that the given models allow."""
    is_family = (families_folder() / models.target / "draft").is_dir()
    draft = models.draft != "none" and (models.draft is not None or is_family)
    qualifier = models.qualifier != "none" and (models.qualifier is not None or is_family)
    found = ["none", *(["draft"] if draft else []), *(["pyramid"] if draft and qualifier else [])]
    return ",".join([*found, "lookup", "auto"])


def _strategies(value: Any, models: Models) -> list[Named]:
    if isinstance(value, Mapping):
        return from_table(value)
    if isinstance(value, list | tuple):
        value = ",".join(map(str, value))
    return parse_strategies(value or default_strategies(models))


def _guarded(strategies: Sequence[Named], mode: Any) -> list[Named]:
    """Give the mode of the guard to every drafting strategy that does not set it."""
    if mode is None:
        return list(strategies)
    check_mode(mode)
    return [
        one if one.is_baseline else replace(one, options={"guard": mode, **one.options})
        for one in strategies
    ]


def _names(key: str, value: Any) -> tuple[str, ...]:
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list | tuple) or not all(isinstance(p, str) for p in parts):
        raise OptionError(f"{key} is {value!r:.60}", hint="Give names, separated by commas")
    return tuple(p.strip() for p in parts if p.strip())


def _model_value(name: str, value: Any) -> Any:
    if name == "guidance" and isinstance(value, int | float) and not isinstance(value, bool):
        value = f"{value}"
    if name in ("kv_budget", "draft_kv_budget") and value is not None:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise OptionError(f"{name} is {value!r:.60}", hint="Give a number")
        return value
    if name == "threads":
        return None if value is None else _whole(name, value)
    if value is not None and not isinstance(value, str):
        raise OptionError(f"{name} is {value!r:.60}", hint="Give a string")
    return value


def _whole(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise OptionError(f"{name} is {value!r:.60}", hint="Give a whole number")
    AT_LEAST_ONE.check(name, value)
    return value
