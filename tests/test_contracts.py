"""Public contracts say what they take and give: `Any` and `object` are the exception."""

import ast
from collections.abc import Iterator
from pathlib import Path

import outrider

SOURCE = Path(outrider.__file__).parent
PACKAGES = (
    *("core", "protocols", "sampling", "acceptance", "policies", "memories", "models", "inputs"),
    *("decoding", "drafters", "context", "guidance", "strategy", "engine"),
)
MOST = 32
"""There were 198 before models declared what they can do."""


def annotations(tree: ast.Module) -> Iterator[ast.expr]:
    """Of public functions and methods, their arguments and results, and of public fields."""
    within = {
        id(inner)
        for outer in ast.walk(tree)
        if isinstance(outer, ast.FunctionDef)
        for inner in ast.walk(outer)
        if inner is not outer
    }
    for node in ast.walk(tree):
        if id(node) in within:
            continue
        if isinstance(node, ast.FunctionDef) and _public(node.name):
            given = node.args
            arguments = [*given.posonlyargs, *given.args, *given.kwonlyargs]
            arguments += [one for one in (given.vararg, given.kwarg) if one]
            yield from (one.annotation for one in arguments if one.annotation)
            if node.returns:
                yield node.returns
        elif isinstance(node, ast.AnnAssign) and _public(ast.unparse(node.target)):
            yield node.annotation


def _public(name: str) -> bool:
    return not name.startswith("_") or name in ("__call__", "__init__")


def loose(tree: ast.Module) -> int:
    return sum(
        isinstance(part, ast.Name) and part.id in ("Any", "object")
        for annotation in annotations(tree)
        for part in ast.walk(annotation)
    )


def test_the_counter_counts() -> None:
    code = (
        "def f(a: Any, *b: list[object]) -> int: ...\ndef _g(a: Any): ...\nc: dict[str, Any] = {}"
    )
    assert loose(ast.parse(code)) == 3


def test_any_is_the_exception() -> None:
    found = {
        str(file.relative_to(SOURCE)): count
        for package in PACKAGES
        for file in (SOURCE / package).rglob("*.py")
        if (count := loose(ast.parse(file.read_text(encoding="utf-8"))))
    }
    assert sum(found.values()) <= MOST, found
