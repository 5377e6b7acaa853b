"""Results as HTML: what a notebook shows is the text, tinted by source, and nothing else."""

import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider.engine.html import result_html, tint
from tests.engine.conftest import Load

SOURCES = ("draft", "qualifier", "qualifier2", "qualifier3", "target")
BACKGROUND = re.compile(r"background: (rgba\([^)]*\)); color: inherit")


class Page(HTMLParser):
    """Reads a page: tags in order, and the text of each span with its source and background."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.divs: list[str] = []
        self.spans: list[list[tuple[str, str, str]]] = []
        self.feed(html)
        self.close()
        assert not self.open, "all tags are closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in ("div", "span")
        self.open.append(tag)
        given = dict(attrs)
        if tag == "div":
            assert set(given) == {"style"}
            self.divs.append("")
            self.spans.append([])
        else:
            assert set(given) == {"title", "style"}
            [background] = BACKGROUND.findall(given["style"] or "")
            self.spans[-1].append((given["title"] or "", background, ""))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        assert self.open
        self.divs[-1] += data
        if self.open[-1] == "span":
            source, background, text = self.spans[-1].pop()
            self.spans[-1].append((source, background, text + data))


def test_a_result(loaded: Load) -> None:
    result = loaded(3).generate("Once <b>upon</b> & a time", max_new_tokens=24)
    page = Page(result._repr_html_())
    written, legend = page.divs
    assert written == re.sub(r"[\x00-\x08\x0b-\x1f\x7f]", "\ufffd", result.text)
    shown = [(source, background) for source, background, _ in page.spans[0]]
    assert shown == [(source, tint(source)) for _, source in result.spans()]
    counts = {source: text for source, _, text in page.spans[1]}
    expected = result.speculation.target.sources
    assert counts == {name: f"{name} {count}" for name, count in expected.items() if count}
    assert "tokens/s" in legend and "acceptance" in legend


PIECES = st.lists(
    st.tuples(st.text(st.characters(codec="utf-8"), min_size=1), st.sampled_from(SOURCES))
)


@given(PIECES)
def test_any_text_is_escaped(pieces: list[tuple[str, str]]) -> None:
    whole = "".join(text for text, _ in pieces)
    page = Page(result_html(pieces, {"draft": 1}, "<script>alert(1)</script>"))
    controls = re.sub(r"[\x00-\x08\x0b-\x1f\x7f]", "\ufffd", whole)
    assert page.divs[0] == controls
    assert page.divs[1].endswith("<script>alert(1)</script>")


def test_tags_and_quotes_are_text() -> None:
    html = result_html([("</div><script>x('&amp;')</script>", "draft")], {}, "")
    assert "<script" not in html
    assert Page(html).divs[0] == "</div><script>x('&amp;')</script>"


def test_sources_have_different_tints() -> None:
    assert len({tint(source) for source in SOURCES}) == len(SOURCES)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(
    ("page", "text"), [((255, 255, 255), (0, 0, 0)), ((30, 30, 30), (212, 212, 212))]
)
def test_text_is_legible_on_light_and_dark_pages(
    source: str, page: tuple[int, ...], text: tuple[int, ...]
) -> None:
    """The contrast of the tinted text is at least 7, the level AAA of WCAG."""
    *color, opacity = map(float, re.findall(r"[\d.]+", tint(source)))
    mixed = [opacity * c + (1 - opacity) * p for c, p in zip(color, page, strict=True)]
    darker, lighter = sorted((luminance(mixed), luminance(text)))
    assert (lighter + 0.05) / (darker + 0.05) >= 7
    assert max(abs(a - b) for a, b in zip(mixed, page, strict=True)) > 20, "and the tint is seen"


def luminance(color: tuple[float, ...] | list[float]) -> float:
    """Relative luminance of a color of sRGB."""
    parts = [c / 255 for c in color]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
