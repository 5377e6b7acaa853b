"""Checkpoints whose chat templates exhaust a renderer, as command lines."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

from outrider.models.loading import families_folder
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
FINE = ("strftime", "batch", "lipsum", "chain", "json separator", "number", "list", "slice")
"""Templates that may also render, if other limits of this machine allow it."""


def cases() -> Iterator[Case]:
    """All cases of chat templates."""
    for name, template in {**HOSTILE, **ISOLATED, **WRONG}.items():
        codes = (0, 2) if name in FINE else (2,)
        yield _case(name, template, codes)


def _case(name: str, template: object, codes: tuple[int, ...]) -> Case:
    def make(folder: Path) -> None:
        target = families_folder() / "tiny" / "target"
        for file in target.iterdir():
            if file.suffix == ".json":
                shutil.copy(file, folder)
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        settings["chat_template"] = template
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
        (folder / "x.txt").write_text("A text.")

    words = ("summarize", "{folder}/x.txt", "--target", "{folder}", "--chat")
    return Case(name=f"template, {name}", make=make, arguments=words, codes=codes)
