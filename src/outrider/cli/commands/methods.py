"""`outrider methods`: lists all methods that can be named, with their properties."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from outrider.cli.options.options import option
from outrider.cli.ui.render import print_json
from outrider.core.errors import OptionError, nearest
from outrider.strategy.catalogue import KINDS, names, records

if TYPE_CHECKING:
    from outrider.protocols.method import Method

_HEADINGS = {kind: f"--{kind}" for kind in ("drafter", "growth", "rule", "policy", "selector")} | {
    "learner": "--learn",
    "guidance": "--guidance",
    "search": "--search",
}
"""Headings of the kinds that have an option of the same name."""


def methods(
    name: Annotated[
        str | None, typer.Argument(help="Describe only this method, with its options.")
    ] = None,
    kind: Annotated[
        str | None,
        option(
            panel="Output",
            metavar=f"[{'|'.join(KINDS)}]",
            autocompletion=lambda: list(KINDS),
            help="List one kind of methods.",
        ),
    ] = None,
    json: Annotated[bool, option("--json", panel="Output", help="Print one JSON object.")] = False,
) -> None:
    """List every method: what it does, needs and keeps, what it guarantees, and the paper.

    identical: the text is the target's own, token for token. distribution:
    another sample of the target's distribution. lossy: tokens may differ from
    the target's choice, and are counted. In mode exact, the default, no
    drafter changes the text, except where PyTorch runs the target in fewer
    than 64 bits: then the result says identical up to rounding. V is the
    size of the vocabulary, n the tokens of a text.

    For example:

      outrider methods
      outrider methods --kind rule
      outrider methods switch
      outrider generate "Once upon a time" --drafter 'switch(sam,recycling,at_least=5)'
    """
    found = _found(name, kind)
    if json:
        print_json({kind: {one.name: facts(one) for one in them} for kind, them in found.items()})
        return
    for number, (kind_, them) in enumerate(found.items()):
        if number:
            print()
        print(f"{_HEADINGS.get(kind_, kind_)}")
        width = max(len(one.name) for one in them) + 2
        for one in them:
            print(f"  {one.name:<{width}}{one.summary}")
            print(f"  {'':<{width}}{_details(one)}")
            if name is not None:
                for choice in one.options.values():
                    shown = f"{choice.name} (required; " if choice.required else f"{choice} ("
                    print(f"  {'':<{width}}{shown}{choice.expected})")


def facts(one: "Method[Any]") -> dict[str, Any]:
    """Convert a record to plain data."""
    return {
        "summary": one.summary,
        "promise": str(one.promise),
        "needs": one.needs,
        "memory": one.memory,
        "paper": str(one.paper or ""),
        "url": one.paper.url if one.paper else "",
        "options": {choice.name: choice.default for choice in one.options.values()},
    }


def _details(one: "Method[Any]") -> str:
    needs = f"needs {one.needs}" if one.needs else ""
    memory = f"memory {one.memory}" if one.memory != "none" else ""
    return "; ".join(filter(None, (str(one.promise), needs, memory, str(one.paper or ""))))


def _found(name: str | None, kind: str | None) -> dict[str, list["Method[Any]"]]:
    """Return the requested records by kind. Raises `OptionError` for an unknown kind or name."""
    if kind is not None and kind not in KINDS:
        raise OptionError(f"unknown kind {kind!r}", hint=nearest(kind, KINDS))
    kinds = [kind] if kind else list(KINDS)
    if name is None:
        return {one: list(records(one)) for one in kinds}
    known = [each for one in kinds for each in names(one)]
    if name not in known:
        raise OptionError(f"unknown method {name!r}", hint=nearest(name, known))
    return {
        one: [each for each in records(one) if each.name == name]
        for one in kinds
        if name in names(one)
    }
