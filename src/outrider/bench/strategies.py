"""Strategies by name, with their keywords of `outrider.load`.

On the command line `draft:k=4,pyramid,fuzzy:max_changed=0.02,k=3` names three; in a TOML file a
table `[strategies.NAME]` holds the options of one, its kind under `recipe`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from outrider.core.errors import OptionError, nearest, reject_unknown
from outrider.core.expression import split_list
from outrider.strategy.catalogue import names

BASELINE = "none"

RECIPES: dict[str, dict[str, Any]] = {
    BASELINE: {"mode": "none"},
    "draft": {"mode": "exact", "drafter": "model"},
    "pyramid": {"mode": "exact", "drafter": "pyramid"},
    **{
        name: {"mode": "exact", "drafter": name}
        for name in names("drafter")
        if name not in ("auto", "model", "pyramid", "none")
    },
    "auto": {"drafter": "auto"},
    **{name: {"denoising": name} for name in names("diffusion")},
    "distribution": {"mode": "distribution", "drafter": "model"},
    "assisted": {"mode": "assisted", "drafter": "pyramid"},
    "fuzzy": {"mode": "fuzzy", "drafter": "pyramid"},
}
"""Keywords of `outrider.load` by name. `auto` is the default of `load`."""

ALIASES = {
    "k": "num_speculative_tokens",
    "q": "num_qualified_tokens",
    "n": "num_draft_nodes",
}
RESERVED = (
    "target",
    "dtype",
    "cache_dtype",
    "kv_policy",
    "kv_budget",
    "device",
    "threads",
    "tokenizer",
    "context_length",
    "trust_remote_code",
)
"""Options of `load` that all strategies of a run share, so that they belong to the run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """The reported name of a strategy, and its keywords of `outrider.load`."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_baseline(self) -> bool:
        """Whether the strategy has no drafter."""
        return self.options.get("mode") == "none" or self.options.get("drafter") == "none"


def parse_strategies(text: str) -> list[Named]:
    """Parse strategies from the command line; the baseline comes first, given or not.

    Raises `OptionError` for an unknown name or option; the message suggests the nearest one.
    """
    return with_baseline([_named(part) for part in _split(text)])


def from_table(tables: Mapping[str, Any]) -> list[Named]:
    """Build the strategies of a config file: name -> options, with `recipe` unless the name is
    one.
    """
    found: list[Named] = []
    for name, table in tables.items():
        if not isinstance(table, Mapping):
            raise OptionError(
                f"strategy {name!r} is {table!r:.40}", hint=f"Write a table: [strategies.{name}]"
            )
        options = dict(table)
        recipe = options.pop("recipe", name)
        if not isinstance(recipe, str):
            raise OptionError(f"recipe of {name!r} is {recipe!r}", hint="Give the name of a recipe")
        found.append(Named(name=name, options=_options(recipe, options)))
    return with_baseline(found)


def with_baseline(strategies: Sequence[Named]) -> list[Named]:
    """Return the undrafted baseline first, then the others; each name must be unique.

    Raises:
        OptionError: a name occurs twice, or the baseline's name has another meaning.
    """
    names = [s.name for s in strategies]
    double = next((name for name in names if names.count(name) > 1), None)
    if double:
        raise OptionError(
            f"strategy {double!r} is given twice", hint="Change its options, or leave it out"
        )
    own = [s for s in strategies if s.name == BASELINE]
    if own and not own[0].is_baseline:
        raise OptionError(
            f"strategy {BASELINE!r} is the undrafted baseline, but has a drafter",
            hint="Give the strategy another name",
        )
    plain = own or [Named(name=BASELINE, options=RECIPES[BASELINE])]
    return [*plain, *(s for s in strategies if s.name != BASELINE)]


def _split(text: str) -> list[str]:
    """Split a list of strategies: a bare `key=value` belongs to the strategy before it."""
    parts: list[str] = []
    for piece in split_list(text):
        head = piece.partition("=")[0]
        if "=" in piece and ":" not in head and "(" not in head and parts:
            parts[-1] += ("," if ":" in parts[-1] else ":") + piece
        else:
            parts.append(piece)
    if not parts:
        raise OptionError("no strategy is given", hint=f"Known: {', '.join(RECIPES)}")
    return parts


def _named(text: str) -> Named:
    recipe, _, rest = text.partition(":")  # expressions contain no colon
    options: dict[str, Any] = {}
    for piece in split_list(rest):
        key, equals, value = piece.partition("=")
        if not equals or not value:
            raise OptionError(f"strategy {text!r} has the option {piece!r}", hint="Write key=value")
        options[key.strip()] = _value(key.strip(), value.strip())
    return Named(name=text, options=_options(recipe.strip(), options))


def _options(recipe: str, given: Mapping[str, Any]) -> dict[str, Any]:
    from outrider.engine.load import OPTIONS

    if recipe not in RECIPES and "(" not in recipe:
        raise OptionError(f"unknown strategy {recipe!r}", hint=nearest(recipe, RECIPES))
    options = {ALIASES.get(name, name): value for name, value in given.items()}
    taken = next((name for name in options if name in RESERVED), None)
    if taken:
        raise OptionError(
            f"strategy {recipe!r} sets {taken}, which all strategies of a run share",
            hint=f"Give --{taken.replace('_', '-')} to the command",
        )
    known = [name for name in OPTIONS if name not in RESERVED]
    reject_unknown(f"option of strategy {recipe!r}:", options, [*known, *ALIASES])
    return {**RECIPES.get(recipe, _recipe(recipe)), **options}


def _recipe(expression: str) -> dict[str, Any]:
    """Return the keywords for an expression such as `sam(handicap=2)` or `threshold(block=8)`."""
    if expression.partition("(")[0] in names("diffusion"):
        return {"denoising": expression}
    return {"mode": "exact", "drafter": expression}


def _value(key: str, text: str) -> Any:
    """Parse a number if possible, else keep the text. A threshold in percent stays text (see
    `load`).
    """
    if key == "max_changed" and text.endswith("%"):
        return float(text[:-1]) / 100 if text[:-1].replace(".", "", 1).isdigit() else text
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text
