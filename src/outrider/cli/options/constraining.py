"""Options for grammars of the text; each is checked before a model is loaded."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from outrider.cli.options.groups import given_fields
from outrider.cli.options.options import option
from outrider.core.errors import OptionError, reject_unknown

if TYPE_CHECKING:
    from outrider.engine.generator import Generator
    from outrider.engine.result import Result
    from outrider.sampling.constraint import Constraint, Engine, Unsupported

PANEL = "Grammar of the text (give one)"
UNSUPPORTED: "tuple[Unsupported, ...]" = ("refuse", "coerce", "lenient")
ENGINES: "tuple[Engine, ...]" = ("llguidance", "xgrammar")
_KINDS = ("json_schema", "json_object", "regex", "choice", "grammar")
_FOR_SCHEMAS = ("json_whitespace", "unsupported")
_ENGINE = "constraint_engine"


@dataclass(frozen=True, kw_only=True, slots=True)
class Constraining:
    """Options for what the text may be."""

    json_schema: Annotated[
        str | None,
        option(
            panel=PANEL,
            metavar="FILE|JSON",
            help="The text is JSON of this schema: a file, or the schema itself, as "
            """'{"type": "object"}'.""",
        ),
    ] = None
    json_object: Annotated[
        bool, option("--json-object", panel=PANEL, help="The text is a JSON object.")
    ] = False
    regex: Annotated[
        str | None,
        option(
            panel=PANEL,
            metavar="PATTERN",
            help="The whole text matches this regular expression, without look-around.",
        ),
    ] = None
    choice: Annotated[
        list[str] | None,
        option(panel=PANEL, help="The text is one of the given choices; repeatable."),
    ] = None
    grammar: Annotated[
        Path | None,
        option(
            panel=PANEL,
            metavar="FILE",
            help="The text follows this grammar: Lark, or GBNF if the name ends with .gbnf.",
        ),
    ] = None
    json_whitespace: Annotated[
        str | None,
        option(
            panel=PANEL,
            metavar="compact|flexible|REGEX",
            help="White space between the parts of JSON: none, any, or what matches. Default: at "
            "most 16 spaces, tabs and line ends at a time.",
        ),
    ] = None
    unsupported: Annotated[
        str | None,
        option(
            panel=PANEL,
            metavar=f"[{'|'.join(UNSUPPORTED)}]",
            autocompletion=lambda: list(UNSUPPORTED),
            help="What becomes of parts of a schema that cannot be enforced. refuse: an error. "
            "coerce: oneOf is read as anyOf. lenient: they are ignored. The last two check the "
            "text afterwards. Default: refuse.",
        ),
    ] = None
    constraint_engine: Annotated[
        str | None,
        option(
            panel=PANEL,
            metavar=f"[{'|'.join(ENGINES)}]",
            autocompletion=lambda: list(ENGINES),
            help="What reads the grammar. xgrammar (pip install xgrammar) ignores parts of a "
            "schema that it cannot enforce, so that JSON is checked afterwards. Default: "
            "llguidance.",
        ),
    ] = None

    def given(self) -> "dict[str, Constraint]":
        """Return the keyword of `Generator.generate`, if a grammar is given.

        Raises:
            OptionError: two are given, a file cannot be read, or the grammar is not valid.
            MissingExtraError: the check of the text needs a package that is not installed.
        """
        found = {n: v for n, v in given_fields(self).items() if v is not False}
        kinds = [name for name in found if name in _KINDS]
        if len(kinds) > 1:
            raise OptionError(
                f"{_typed(kinds[0])} and {_typed(kinds[1])} are given together", hint="Give one"
            )
        if not (self.json_schema or self.json_object):
            for name in _FOR_SCHEMAS:
                if name in found:
                    raise OptionError(
                        f"{_typed(name)} is given without a schema",
                        hint="Give --json-schema or --json-object",
                    )
        if not kinds and self.constraint_engine is not None:
            raise OptionError(
                f"{_typed(_ENGINE)} is given without a grammar",
                hint=f"Give one of {', '.join(map(_typed, _KINDS))}",
            )
        if not kinds:
            return {}
        from outrider.constraints import check_constraint

        constraint = self._constraint()
        if self.constraint_engine is not None:
            reject_unknown(_typed(_ENGINE), (self.constraint_engine,), ENGINES)
            engines: dict[str, Engine] = {name: name for name in ENGINES}
            constraint = constraint.by(engines[self.constraint_engine])
        check_constraint(constraint)
        return {"constraint": constraint}

    def _constraint(self) -> "Constraint":
        from outrider.sampling.constraint import Constraint

        if self.regex is not None:
            return Constraint.regex(self.regex)
        if self.choice:
            return Constraint.choice(self.choice)
        if self.grammar is not None:
            kind = "gbnf" if self.grammar.suffix.lower() == ".gbnf" else "lark"
            return Constraint(kind=kind, source=_read(self.grammar))
        given = self.unsupported if self.unsupported is not None else "refuse"
        reject_unknown("--unsupported", (given,), UNSUPPORTED)
        known: dict[str, Unsupported] = {name: name for name in UNSUPPORTED}
        return Constraint.json_schema(
            {"type": "object"} if self.json_schema is None else _schema(self.json_schema),
            whitespace=self.json_whitespace,
            unsupported=known[given],
        )


def cut_note(generator: "Generator", result: "Result", settings: dict[str, Any]) -> str:
    """Say in one line that a limit has cut the text before it was complete for its grammar, or that
    the text does not follow a schema that was not enforced as a whole; empty otherwise."""
    constraint: Constraint | None = settings.get("constraint")
    if constraint is None:
        return ""
    if result.finish_reason == "length" and not _complete(generator, constraint, result):
        most = generator.params(**settings).max_new_tokens
        whole = result.completion_tokens >= most
        return (
            f"cut at {result.completion_tokens} tokens: the text is an unfinished prefix of the "
            f"grammar; {'raise --max-new-tokens' if whole else 'the context window is full'}"
        )
    if result.validated is False:
        return (
            "the text does not follow the schema, of which "
            + (
                f"--unsupported {constraint.unsupported}"
                if constraint.unsupported != "refuse"
                else constraint.engine
            )
            + " does not enforce all parts"
        )
    return ""


def _complete(generator: "Generator", constraint: "Constraint", result: "Result") -> bool:
    """Whether the text could end where the limit cuts it."""
    matcher = generator.grammars.of(constraint).begin()
    return matcher.advance(result.token_ids) == len(result.token_ids) and matcher.accepting


def _schema(given: str) -> str:
    return given if given.lstrip().startswith("{") else _read(Path(given))


def _read(file: Path) -> str:
    """Return the text of a file that is not larger than a grammar may be."""
    from outrider.constraints.limits import GrammarLimits
    from outrider.inputs.regular import open_regular, read_at_most

    limit = GrammarLimits().size
    try:
        with open_regular(file) as stream:
            data = read_at_most(stream, limit)
        if data is None:
            raise OptionError(f"{file} is too large", hint=f"At most {limit} bytes are read")
        return data.decode("utf-8-sig")
    except OSError as error:
        raise OptionError(
            f"{file} cannot be read: {error.strerror or error}", hint="Give the path of a file"
        ) from None
    except UnicodeDecodeError:
        raise OptionError(f"{file} is no text", hint="Give a file in UTF-8") from None


def _typed(name: str) -> str:
    return f"--{name.replace('_', '-')}"
