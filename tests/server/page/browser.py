"""Chromium for tests of the page; they skip where it, or the package that drives it, is missing."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


@contextmanager
def chromium() -> Iterator[Any]:
    """Context manager: a headless Chromium, as an object of `playwright`."""
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("needs chromium (apt install chromium)")
    playwright = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


def event(content: str, source: str = "target", **more: Any) -> dict[str, Any]:
    """Return a chunk of a stream with one text."""
    choice = {
        "index": 0,
        "delta": {"content": content},
        "finish_reason": None,
        "token_ids": [1],
        "sources": [[content, source]],
    }
    return {"id": "chatcmpl-1", "choices": [choice | more], "usage": None}
