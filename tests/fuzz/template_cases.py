"""Checkpoints whose chat templates exhaust a renderer, as command lines."""

import json
from collections.abc import Iterator
from pathlib import Path

from outrider.models.sources.families import families_folder
from tests.fuzz.case import Case
from tests.fuzz.template_files import HOSTILE, ISOLATED

WRONG: dict[str, object] = {
    "number": 5,
    "list": [1, 2],
    "half pair": "{{ '\\ud800' }}{{ messages[0].content }}",
    "no end": "{% for a in messages %}",
    "no filter": "{{ messages|nothing }}",
    "include": "{% include '/etc/passwd' %}",
    "class": "{{ ''.__class__.__mro__ }}",
    "100 MB": "x" * (100 << 20),
    "deep if": "{% if 1 %}" * 150 + "{% endif %}" * 150,
    "deep for": "{% for a in [1] %}" * 60 + "{% endfor %}" * 60,
}
LIMITED = (
    "nested loops", "growing tojson", "shared tojson", "doubled ~", "* right", "replace", "split",
    "endless calls", "too many tokens",
)  # fmt: skip
CHILDREN = ("center", "format operator", "shared namespace")


def cases() -> Iterator[Case]:
    """Cases of each kind; `tests.models.checkpoints.test_templates` renders all templates."""
    chosen = {name: HOSTILE[name] for name in LIMITED} | {name: ISOLATED[name] for name in CHILDREN}
    for name, template in {**chosen, **WRONG}.items():
        yield _case(name, template, (0, 2) if name in ("number", "list") else (2,))


def _case(name: str, template: object, codes: tuple[int, ...]) -> Case:
    def make(folder: Path) -> None:
        for file in (families_folder() / "tiny" / "target").iterdir():
            (folder / file.name).symlink_to(file)
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        (folder / "tokenizer_config.json").unlink()
        settings["chat_template"] = template
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
        (folder / "x.txt").write_text("A text.")

    words = (
        "summarize",
        "{folder}/x.txt",
        "--target",
        "{folder}",
        "--chat",
        "--max-new-tokens",
        "1",
    )
    expect = "chat template" if codes == (2,) else ""
    if name == "100 MB":  # the limit on tokenizer_config.json comes first
        expect = "the limit of"
    return Case(name=f"template, {name}", make=make, arguments=words, codes=codes, expect=expect)
