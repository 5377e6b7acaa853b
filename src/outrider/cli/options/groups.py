"""Option groups: a command takes a dataclass, and the command line shows its fields as options.

Several commands share the same thirty options. They are declared once, as the fields of a frozen
dataclass annotated with `typer.Option`, and a command requests them with one parameter:

    @grouped
    def generate(prompt: Prompt, models: ModelOptions, sampling: SamplingOptions) -> None: ...
"""

import dataclasses
import inspect
from collections.abc import Callable, Iterator
from functools import wraps
from inspect import Parameter
from typing import Any, get_type_hints


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Replace each dataclass parameter in the signature of `command` by its fields."""
    hints = get_type_hints(command, include_extras=True)
    groups = {name: hint for name, hint in hints.items() if dataclasses.is_dataclass(hint)}
    parameters = list(_spread(command, hints))

    @wraps(command)
    def run(**values: Any) -> None:
        for name, group in groups.items():
            given = {f.name: values.pop(f.name) for f in dataclasses.fields(group)}
            values[name] = group(**given)  # pyright: ignore[reportCallIssue]
        command(**values)

    vars(run)["__signature__"] = inspect.Signature(parameters)
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run


def given_fields(group: Any) -> dict[str, Any]:
    """Return the fields of `group` that the user set: those that are neither None nor empty."""
    values = {f.name: getattr(group, f.name) for f in dataclasses.fields(group)}
    return {name: value for name, value in values.items() if value not in (None, [], ())}


def _spread(command: Callable[..., None], hints: dict[str, Any]) -> Iterator[Parameter]:
    for parameter in inspect.signature(command).parameters.values():
        hint = hints[parameter.name]
        if dataclasses.is_dataclass(hint):
            yield from _fields(hint)
        else:
            yield parameter.replace(kind=Parameter.KEYWORD_ONLY, annotation=hint)


def _fields(group: Any) -> Iterator[Parameter]:
    hints = get_type_hints(group, include_extras=True)
    for field in dataclasses.fields(group):
        default = Parameter.empty if field.default is dataclasses.MISSING else field.default
        yield Parameter(
            field.name, Parameter.KEYWORD_ONLY, default=default, annotation=hints[field.name]
        )
