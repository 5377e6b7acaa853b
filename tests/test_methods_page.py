"""docs/methods.md, and that every method is tested under its name."""

from scripts.methods_page import PAGE, marked_tests, page

from outrider.strategy.catalogue import KINDS, names

KNOWN = [name for kind in KINDS for name in names(kind)]


def test_the_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run python -m scripts.methods_page"


def test_every_method_has_a_marked_test_and_every_mark_a_method() -> None:
    marked = marked_tests()
    assert [name for name in KNOWN if not marked[name]] == []
    assert {name for name, files in marked.items() if files} - set(KNOWN) == set()
