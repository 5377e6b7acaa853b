"""The description of a method that a user can select by name.

Each drafter, growth, rule, policy, selector and guidance method declares one record, `METHOD`, at
the end of its file. `strategy/catalogue.py` lists the files. The command line, `load`, the
benchmarks, the exactness matrix and `docs/methods.md` read the records.
"""

from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass, replace
from types import NoneType, UnionType
from typing import Generic, TypeVar, Union, get_args, get_origin, get_type_hints

from outrider.core.errors import OptionError, reject_unknown
from outrider.core.expression import Value as Value
from outrider.core.expression import quoted
from outrider.core.types import Exactness

Made = TypeVar("Made", covariant=True)


_PLAIN = (bool, int, float, str, NoneType)
_INTERNAL = frozenset({"name", "origin", "needs", "tier", "with_probs", "seconds"})
"""Fields that the strategy sets; they are not options for the user."""

_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a name"}


@dataclass(frozen=True, slots=True)
class Paper:
    """The publication that introduces a method.

    Attributes:
        title: title of the paper or name of the method; with authors and year if there is no
            identifier.
        arxiv: its arXiv identifier, or empty.
    """

    title: str
    arxiv: str = ""

    def __str__(self) -> str:
        return f"{self.title}, arXiv {self.arxiv}" if self.arxiv else self.title

    @property
    def url(self) -> str:
        """The address of the paper, or empty if it has no arXiv identifier."""
        return f"https://arxiv.org/abs/{self.arxiv}" if self.arxiv else ""


@dataclass(frozen=True, slots=True)
class Option:
    """One option of a method.

    Attributes:
        name: name of the field.
        types: the plain types that the option accepts.
        default: the value that is used when the option is not given.
        required: whether the option must be given.
    """

    name: str
    types: tuple[type, ...]
    default: Value
    required: bool = False

    def read(self, method: str, value: Value) -> Value:
        """Check `value` and return it; a whole number is converted where a float is expected.

        Raises:
            OptionError: the value has a type that the option does not accept.
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
        """The accepted types in words, for error messages."""
        words = [_WORDS[kind] for kind in self.types if kind in _WORDS]
        words += ["numbers in parentheses, such as (4,2,1)"] if tuple in self.types else []
        words += ["none"] if NoneType in self.types else []
        return " or ".join(words)

    def __str__(self) -> str:
        return f"{self.name}={text_of(self.default)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Method(Generic[Made]):
    """The description of one method.

    Attributes:
        name: the name for the command line and `load`: the name of its file, with `-` for `_`.
        cls: the class that implements the method; its plain fields are the options.
        summary: what the method does, in one line.
        paper: the publication that introduces it; None for common knowledge.
        promise: the exactness of the text. A drafter promises `identical`: only the rule can lower
            the promise.
        needs: what the method requires in addition to the target; empty if nothing.
        memory: what it stores, in bytes for a vocabulary of V or a text of n tokens.
        defaults: options for which a build by name uses another default than the class.
        writes_values: it writes real vectors in place of tokens, with a rule of its own.
        more: options in addition to the fields of the class; the build by name handles them.
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
    writes_values: bool = False

    @property
    def options(self) -> dict[str, Option]:
        """All options by name, with the defaults that a build by name uses."""
        found = plain_options(self.cls) | {option.name: option for option in self.more}
        return {
            name: replace(option, default=self.defaults[name], required=False)
            if name in self.defaults
            else option
            for name, option in found.items()
        }

    def settings(self, given: Mapping[str, Value]) -> dict[str, Value]:
        """Return the keyword arguments for `cls`: the defaults of this record, overridden by
        `given`.

        Raises:
            OptionError: the method has no such option (the message suggests the nearest one), a
                value has the wrong type, or a required option is missing.
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
        """Build the method with these options. Raises `OptionError` for an invalid option."""
        return self.cls(**self.settings(given))


def plain_options(cls: type) -> dict[str, Option]:
    """Return the fields of a dataclass whose values are numbers, names or tuples of numbers."""
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
    """Return the plain types of an annotation; empty if the annotation accepts no plain type
    besides None.
    """
    parts = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    kinds: list[type] = []
    for part in parts:
        if part in _PLAIN and isinstance(part, type):
            kinds.append(part)
        elif get_origin(part) is tuple and {*get_args(part)} <= {int, Ellipsis}:
            kinds.append(tuple)
    return tuple(kinds) if {*kinds} - {NoneType} else ()


def text_of(value: Value) -> str:
    """Return the text form of a value, in the syntax of command-line expressions."""
    if isinstance(value, tuple):
        return f"({','.join(map(str, value))})"
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return quoted(value)
    return f"{value:g}" if isinstance(value, float) else str(value)
