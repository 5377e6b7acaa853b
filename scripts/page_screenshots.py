"""Take the pictures of the server's page that the guide shows.

Needs Chromium and the package `playwright`, and a server that runs:

    outrider serve --target smollm2 &
    python -m scripts.page_screenshots http://127.0.0.1:8000 docs/images
"""

import argparse
import shutil
from pathlib import Path

QUESTIONS = (
    "Write four lines about the sea.",
    "Write the same lines again, with lake in place of sea.",
)
SIZES = {"page-light.png": (1100, 680), "page-phone.png": (390, 760)}


def main() -> None:
    """Ask the questions, and save one picture for each size."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("url")
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    for name, size in SIZES.items():
        take(given.url, given.folder / name, size)


def take(url: str, file: Path, size: tuple[int, int]) -> None:
    """Save a picture of a conversation."""
    from playwright.sync_api import sync_playwright  # pyright: ignore[reportMissingImports]

    width, height = size
    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        page = browser.new_page(
            viewport={"width": width, "height": height},
            color_scheme="dark" if "phone" in file.name else "light",
        )
        page.goto(url)
        page.wait_for_selector("#model option", state="attached")
        page.evaluate("$('temperature').value = 0; $('seed').value = 1;")
        for number, question in enumerate(QUESTIONS):
            page.get_by_label("Message").fill(question)
            page.get_by_label("Message").press("Enter")
            page.locator(".answer .actions").nth(number).wait_for(timeout=120_000)
        page.get_by_role("button", name="Same seed, undrafted").last.click()
        page.get_by_text("Equal").wait_for(timeout=120_000)
        page.wait_for_selector("#places li", state="attached")
        page.screenshot(path=file)
        browser.close()


if __name__ == "__main__":
    main()
