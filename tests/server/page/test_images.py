"""Images on the page: dropped or chosen, removed, sent; refused for a model that reads none."""

from collections.abc import Iterator
from io import BytesIO
from typing import Any

import PIL.Image
import pytest

from tests.deploy.processes import serving
from tests.server.page.browser import chromium

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]

DROP = """(bytes) => {
  const data = new DataTransfer();
  data.items.add(new File([new Uint8Array(bytes)], "red.png", { type: "image/png" }));
  document.dispatchEvent(new DragEvent("drop", { dataTransfer: data, cancelable: true }));
}"""


@pytest.fixture(scope="module")
def page() -> Iterator[Any]:
    with chromium() as browser, serving("--target", "tiny-vision") as url:
        found = browser.new_page()
        found.goto(url)
        found.wait_for_selector("#model option", state="attached")
        yield found


@pytest.fixture(scope="module")
def red() -> bytes:
    file = BytesIO()
    PIL.Image.new("RGB", (64, 64), "red").save(file, "PNG")
    return file.getvalue()


def test_a_dropped_and_a_chosen_image_are_sent(page: Any, red: bytes) -> None:
    page.evaluate(DROP, list(red))
    page.wait_for_selector("#images img")
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Add images").click()
    chooser.value.set_files([{"name": "a.png", "mimeType": "image/png", "buffer": red}])
    page.get_by_role("button", name="Remove image 2").click()
    assert page.locator("#images img").count() == 1
    page.get_by_label("Temperature").fill("0")
    page.get_by_label("Message").fill("What is this?")
    with page.expect_request("**/v1/chat/completions") as sent:
        page.get_by_label("Message").press("Enter")
    image, text = sent.value.post_data_json["messages"][0]["content"]
    assert image["image_url"]["url"].startswith("data:image/png;base64,")
    assert text == {"type": "text", "text": "What is this?"}
    page.get_by_role("button", name="Same seed, undrafted").click()
    page.get_by_text("Equal").wait_for()
    assert page.locator(".user img").count() == 1
    assert page.locator("#images img").count() == 0
    assert page.locator(".answer .text").inner_text()


def test_a_model_without_a_vision_encoder_gets_none(page: Any, red: bytes) -> None:
    page.evaluate("models.forEach((one) => { one.reads_images = false; }); chosen()")
    page.evaluate(DROP, list(red))
    page.get_by_text("This model reads no images.").wait_for()
    assert page.locator("#images img").count() == 0
    assert not page.get_by_role("button", name="Add images").is_visible()
