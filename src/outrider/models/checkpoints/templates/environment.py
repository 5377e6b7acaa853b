"""The Jinja environment of chat templates, as `transformers` sets it up."""

import json
from collections.abc import Callable
from datetime import datetime
from typing import TypeVar

import jinja2
import jinja2.exceptions
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.runtime
import jinja2.sandbox
import jinja2.utils

from outrider.models.checkpoints.templates.limits import Value

Made = TypeVar("Made", bound=jinja2.sandbox.ImmutableSandboxedEnvironment)


class GenerationBlocks(jinja2.ext.Extension):
    """`{% generation %}` blocks, which mark the text of the assistant; here they mark nothing."""

    tags = {"generation"}

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        """Parse a block."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        call = self.call_method("written")
        return jinja2.nodes.CallBlock(call, [], [], body).set_lineno(line)

    @staticmethod
    def written(caller: jinja2.runtime.Macro) -> str:
        """Return the text of a block."""
        return caller()


class TemplateDict:
    """`dict` without the attributes of the class."""

    def __call__(self, *args: Value, **kwargs: Value) -> dict[Value, Value]:
        """Make a dictionary."""
        return dict(*args, **kwargs)


class TemplateNamespace(jinja2.utils.Namespace):
    """A namespace without names that begin with an underscore."""

    def __init__(*args: Value, **kwargs: Value) -> None:  # the template may set `self`
        self, *rest = args
        values = dict(*rest, **kwargs)
        for name in values:
            TemplateNamespace.check(name)
        jinja2.utils.Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Value) -> None:
        TemplateNamespace.check(name)
        super().__setitem__(name, value)

    @staticmethod
    def check(name: object) -> None:
        """Raise `SecurityError` for a name that begins with an underscore."""
        if isinstance(name, str) and name.startswith("_"):
            raise jinja2.exceptions.SecurityError(f"a namespace cannot hold {name!r}")


def raise_exception(message: str) -> None:
    """Refuse the messages."""
    raise jinja2.TemplateError(message)


def strftime_now(format: str) -> str:
    """Return the local time."""
    return datetime.now().strftime(format)


def tojson(
    x: Value,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Return a value as JSON, without the escapes for HTML of Jinja's own filter."""
    return json.dumps(
        x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def build(kind: Callable[..., Made], **options: Value) -> Made:
    """Build an environment of this class."""
    extensions = [GenerationBlocks, jinja2.ext.loopcontrols, *options.pop("extensions", ())]
    made = kind(trim_blocks=True, lstrip_blocks=True, extensions=extensions, **options)
    made.filters["tojson"] = tojson
    made.globals |= {
        "raise_exception": raise_exception,
        "strftime_now": strftime_now,
        "dict": TemplateDict(),
        "namespace": TemplateNamespace,
    }
    return made


def render_isolated(data: bytes, report: object) -> str:
    """Render a template; the main function of the child process, which has limits of its own."""
    order = json.loads(data)
    environment = build(jinja2.sandbox.ImmutableSandboxedEnvironment)
    return environment.from_string(order["source"]).render(**order["values"])
