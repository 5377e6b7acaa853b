"""One way to use each method by name: the options of `load`, and the same words of the command
line."""

from collections.abc import Iterator

from outrider.strategy.catalogue import KINDS, drafter_records, record

FITTING = {
    "rejection": {"drafter": "model"},
    "recursive": {"drafter": "model", "growth": "rsd-s"},
    "kseq": {"drafter": "model", "growth": "iid"},
    "fuzzy": {"drafter": "model"},
    "lud": {"drafter": "model"},
}
"""Rules that judge drafts of a certain kind, with drafters that make them."""

OF_HEADS = ("hinted", "eagle3", "eagle1", "fspad", "medusa", "clover", "chimera")
"""Drafters that need a head of the target; tests/engine/test_heads.py makes some."""

OF_FILES = ("ppd", "lud", "universal", "deer")
"""Drafters that need other files; tests/drafters/heads and tests/drafters/neural make some."""

OF_PROBES = ("judge",)
"""Rules that need a probe of the target; tests/training/judge trains one."""

WHERE = ("drafter", "rule", "policy", "growth")


def ways() -> dict[str, dict[str, str]]:
    """`kind name` -> options."""
    return dict(_ways())


def _ways() -> Iterator[tuple[str, dict[str, str]]]:
    for one in drafter_records():
        if not one.needs_store and one.name not in (*OF_HEADS, *OF_FILES):
            yield f"drafter {one.name}", {"drafter": one.example}
    for kind in ("rule", "policy", "growth"):
        for module in KINDS[kind]:
            name = module.rpartition(".")[2].replace("_", "-")
            if name in OF_PROBES:
                continue
            options = {kind: name} | FITTING.get(name, {})
            yield f"{kind} {name}", ({"drafter": "model"} if kind == "growth" else {}) | options


def promise(options: dict[str, str]) -> str:
    """What the text of these options is promised to be."""
    return str(record("rule", options["rule"]).promise) if "rule" in options else "identical"
