"""What a model, a cache or a drafter can do is declared in its protocol, and never probed."""

import ast
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

import outrider
from outrider.protocols import (
    CAPABILITIES,
    Cache,
    CacheReport,
    Capabilities,
    Drafter,
    LanguageModel,
    ModelInfo,
)

SOURCE = Path(outrider.__file__).parent
DECLARED = {
    *(field.name for kind in (ModelInfo, CacheReport) for field in fields(kind)),
    *("fingerprint", "bytes_per_token", "looked", "write", "image_token_ids", "streams"),
    *(name for kind in (Cache, LanguageModel, Drafter) for name in vars(kind) if name[0] != "_"),
    *CAPABILITIES,
}
PROBES = {"getattr", "hasattr", "getattr_static"}
KINDS = {
    kind.split(" ")[0]
    for name in CAPABILITIES
    if isinstance(kind := vars(Capabilities)[name].fget.__annotations__["return"], str)
}


def probes(tree: ast.AST) -> Iterator[str]:
    """Calls that ask an object whether it has something that a protocol declares."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or len(node.args) < 2:
            continue
        called = node.func.attr if isinstance(node.func, ast.Attribute) else node.func
        called = called.id if isinstance(called, ast.Name) else called
        asked = node.args[1]
        if called in PROBES and isinstance(asked, ast.Constant) and asked.value in DECLARED:
            yield f"line {node.lineno}: {called} of {asked.value!r}"
        if called == "isinstance" and KINDS & {
            n.id for n in ast.walk(asked) if type(n) is ast.Name
        }:
            yield f"line {node.lineno}: {ast.unparse(node)}"


def test_nothing_is_probed() -> None:
    found = {
        str(file.relative_to(SOURCE)): list(probes(ast.parse(file.read_text(encoding="utf-8"))))
        for file in SOURCE.rglob("*.py")
    }
    assert {file: lines for file, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    "line",
    [
        "getattr(model, 'hidden_states', None)",
        "if hasattr(cache, 'report'): pass",
        "inspect.getattr_static(model, 'embed')",
        "write = getattr(self.model, 'write', None)",
        "isinstance(model, (Layered, Segmented))",
    ],
)
def test_a_probe_would_be_found(line: str) -> None:
    assert list(probes(ast.parse(line)))


def test_other_objects_may_be_asked() -> None:
    assert not list(probes(ast.parse("getattr(config, 'sliding_window', None)")))
