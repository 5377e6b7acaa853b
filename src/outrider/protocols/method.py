"""A method that a user can name, described in the file that implements it.

Each drafter, growth, rule, policy, selector and guidance method declares one record, `METHOD`, at
the end of its file. `strategy/catalogue.py` lists the files. The command line, `load`, the bench,
the exactness matrix and `docs/methods.md` read the records.
"""

from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass, replace
from types import NoneType, UnionType
from typing import Generic, TypeVar, Union, get_args, get_origin, get_type_hints

from outrider.core.errors import OptionError, reject_unknown
from outrider.core.types import Exactness

Made = TypeVar("Made", covariant=True)
Value = int | float | str | bool | tuple[int, ...] | None
"""A value of an option, as text and Python give it."""

_PLAIN = (bool, int, float, str, NoneType)
_INTERNAL = frozenset({"name", "origin", "needs", "tier", "with_probs"})
"""Fields that the strategy sets, not the user."""

_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a name"}


@dataclass(frozen=True, slots=True)
class Paper:
    """Where the idea is from.

    Attributes:
        title: of the paper or of the method, with authors and year where there is no identifier.
        arxiv: its arXiv identifier, or empty.
    """

    title: str
    arxiv: str = ""

    def __str__(self) -> str:
        return f"{self.title}, arXiv {self.arxiv}" if self.arxiv else self.title

    @property
    def url(self) -> str:
        """The address of the paper, or empty."""
        return f"https://arxiv.org/abs/{self.arxiv}" if self.arxiv else ""


@dataclass(frozen=True, slots=True)
class Option:
    """One option of a method.

    Attributes:
        name: of the field.
        types: the plain types that it takes.
        default: its value when not given.
        required: whether it must be given.
    """

    name: str
    types: tuple[type, ...]
    default: Value
    required: bool = False

    def read(self, method: str, value: Value) -> Value:
        """`value`, a whole number made a float where one is expected.

        Raises:
            OptionError: it is of another type.
        """
        if isinstance(value, tuple):
            if tuple in self.types:
                return value
        elif type(value) in self.types:
            return value
        elif isinstance(value, int) and not isinstance(value, bool) and float in self.types:
            return float(value)
        raise OptionError(
            f"option {self.name} of {method!r} is {text_of(value)}", hint=f"Give {self.expected}"
        )

    @property
    def expected(self) -> str:
        """What it takes, in words."""
        words = [_WORDS[kind] for kind in self.types if kind in _WORDS]
        words += ["numbers in parentheses, as (4,2,1)"] if tuple in self.types else []
        words += ["none"] if NoneType in self.types else []
        return " or ".join(words)

    def __str__(self) -> str:
        return f"{self.name}={text_of(self.default)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Method(Generic[Made]):
    """One method, described.

    Attributes:
        name: how the command line and `load` call it; the name of its file, with `-` for `_`.
        cls: the class that implements it; its plain fields are the options.
        summary: what it does, in one line.
        paper: where the idea is from; None where it is common knowledge.
        promise: what the text is promised to be. A drafter promises `identical`: the rule alone
            can lower that.
        needs: what it can not do without, beside the target; empty for nothing.
        memory: what it keeps, in bytes for a vocabulary of V or a text of n tokens.
        defaults: options that a build by name sets otherwise than the class.
        more: options beside the fields of the class; the build by name handles them.
    """

    name: str
    cls: type[Made]
    summary: str
    paper: Paper | None = None
    promise: Exactness = Exactness.IDENTICAL
    needs: str = ""
    memory: str = "none"
    defaults: Mapping[str, Value] = field(default_factory=dict[str, Value])
    more: tuple[Option, ...] = ()

    @property
    def options(self) -> dict[str, Option]:
        """Options by name, with the defaults of a build by name."""
        found = plain_options(self.cls) | {option.name: option for option in self.more}
        return {
            name: replace(option, default=self.defaults[name], required=False)
            if name in self.defaults
            else option
            for name, option in found.items()
        }

    def settings(self, given: Mapping[str, Value]) -> dict[str, Value]:
        """Keywords for `cls`: the defaults of this record, with `given` over them.

        Raises:
            OptionError: an option that the method does not have, with the nearest, a value of
                another type, or an option that must be given and is not.
        """
        known = self.options
        unknown = {name: value for name, value in given.items() if name not in known}
        reject_unknown(f"option of {self.name!r}:", unknown, known)
        missing = [name for name, option in known.items() if option.required and name not in given]
        if missing:
            raise OptionError(
                f"option {missing[0]} of {self.name!r} is not given",
                hint=f"Write {self.name}({missing[0]}=...)",
            )
        read = {name: known[name].read(self.name, value) for name, value in given.items()}
        return {**self.defaults, **read}

    def build(self, given: Mapping[str, Value]) -> Made:
        """The method with these options. Raises `OptionError` for a wrong one."""
        return self.cls(**self.settings(given))


def plain_options(cls: type) -> dict[str, Option]:
    """The fields of a dataclass that numbers, names and numbers in parentheses can fill."""
    if not is_dataclass(cls):
        return {}
    hints = get_type_hints(cls)
    found: dict[str, Option] = {}
    for one in fields(cls):
        types = _plain_types(hints[one.name])
        if one.init and types and one.name[0] != "_" and one.name not in _INTERNAL:
            is_required = one.default is MISSING and one.default_factory is MISSING
            found[one.name] = Option(one.name, types, _default(one), is_required)
    return found


def _default(one: "Field[Value]") -> Value:
    return None if one.default is MISSING else one.default


def _plain_types(hint: object) -> tuple[type, ...]:
    """The plain types of an annotation; empty where nothing plain but None fits it."""
    parts = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    kinds: list[type] = []
    for part in parts:
        if part in _PLAIN and isinstance(part, type):
            kinds.append(part)
        elif get_origin(part) is tuple and {*get_args(part)} <= {int, Ellipsis}:
            kinds.append(tuple)
    return tuple(kinds) if {*kinds} - {NoneType} else ()


def text_of(value: Value) -> str:
    """A value as the expressions of the command line write it."""
    if isinstance(value, tuple):
        return f"({','.join(map(str, value))})"
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
