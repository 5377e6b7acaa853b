"""A hook of MkDocs: pages that lie outside `docs/`, and links that lead there.

The README is the first page. The changelog, the page for contributors and the model cards are
pages, too. A link to another file of the repository becomes plain text; the file must exist.
"""

import logging
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "src/outrider/families/tiny/MODEL_CARD.md": "family-tiny.md",
    "src/outrider/families/tiny-vision/MODEL_CARD.md": "family-tiny-vision.md",
}
"""Files outside `docs/` -> the pages that show them."""

_LOG = logging.getLogger("mkdocs.hooks.docs_site")
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
_SOURCES = {page: source for source, page in PAGES.items()}


def on_files(files: Files, *, config: Any) -> Files:
    """Add the pages that lie outside `docs/`."""
    for source, page in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=_front_matter_as_code(text)))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Let links lead to pages of the site, or be plain text."""
    name = page.file.src_uri
    source = _SOURCES.get(name, f"docs/{name}")
    return _LINK.sub(lambda found: _linked(found, source, name), markdown)


def _linked(found: re.Match[str], source: str, name: str) -> str:
    image, text, link = found.groups()
    if "://" in link or link.startswith(("#", "mailto:")):
        return found[0]
    path, mark, anchor = link.partition("#")
    target = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
    if not (ROOT / target).exists():
        _LOG.warning("%s links to %s, which does not exist", source, link)
        return found[0]
    page = PAGES.get(target) or (target[5:] if target.startswith("docs/") else "")
    if page:
        relative = posixpath.relpath(page, posixpath.dirname(name) or ".")
        return f"{image}[{text}]({relative}{mark}{anchor})"
    return text if text.startswith("`") else f"`{text}`"


def _front_matter_as_code(text: str) -> str:
    """Model cards begin with metadata, which is shown and not read."""
    return re.sub(r"\A---\n(.*?)\n---\n", r"```yaml\n\1\n```\n", text, flags=re.S)
