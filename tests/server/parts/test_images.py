"""Images as data URLs: what is read, and what is refused before it is decoded."""

import base64
import io
import zlib
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote_from_bytes

import pytest
from PIL import Image

import outrider
from outrider.engine.generator import Generator
from outrider.server.errors import ApiError
from outrider.server.prompts.images import read_image_url
from tests.server.setups import CHAT, Running, running


def picture(kind: str = "PNG", size: tuple[int, int] = (24, 16)) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", size, (200, 30, 30)).save(data, kind)
    return data.getvalue()


def url(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def asked(place: Any) -> list[dict[str, Any]]:
    parts = [{"type": "image_url", "image_url": place}, {"type": "text", "text": "Describe it."}]
    return [{"role": "user", "content": parts}]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
def test_images_of_all_kinds_are_read(kind: str) -> None:
    found = read_image_url(url(picture(kind), "image/any"), "image")
    assert found.size == (24, 16) and found.mode == "RGB"


def test_data_may_be_quoted_instead_of_base64() -> None:
    assert read_image_url(f"data:image/png,{quote_from_bytes(picture())}", "image").size == (24, 16)


def test_a_small_file_with_many_pixels_is_not_decoded() -> None:
    def chunk(name: bytes, data: bytes) -> bytes:
        code = zlib.crc32(name + data).to_bytes(4, "big")
        return len(data).to_bytes(4, "big") + name + data + code

    head = (40_000).to_bytes(4, "big") * 2 + b"\x08\x02\0\0\0"
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", b"x") + chunk(b"IEND", b"")
    with pytest.raises(ApiError, match="pixels"):
        read_image_url(url(bomb), "image")


@pytest.mark.parametrize(
    "place",
    [
        *("http://127.0.0.1/a.png", "https://example.org/a.png", "file:///etc/passwd", "a.png", ""),
        *("data:", "data:image/png;base64,####", "data:image/png;base64,", "data:,hello"),
        url(picture()[:60]),
        url(b"%PDF-1.7"),
        url(b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
        "data:image/png;base64,ü",
    ],
)
def test_other_addresses_and_data_are_refused(place: str) -> None:
    with pytest.raises(ApiError) as raised:
        read_image_url(place, "here")
    assert raised.value.status == 400 and raised.value.param == "here"
    assert "\n" not in raised.value.message


def test_a_model_that_reads_no_images_says_so(served: Running) -> None:
    body = {"model": "tiny", "messages": asked({"url": url(picture())}), "max_tokens": 4}
    answer = served.post(CHAT, body)
    assert answer.status == 400 and "does not read images" in answer.error["message"]


@pytest.fixture(scope="module")
def seeing() -> Iterator[tuple[Generator, Running]]:
    generator = outrider.load("tiny-vision", threads=1)
    with running(generator) as served:
        yield generator, served


@pytest.mark.slow
@pytest.mark.parametrize("place", [{"url": url(picture())}, url(picture())])
def test_the_answer_about_an_image_is_that_of_the_library(
    seeing: tuple[Generator, Running], place: Any
) -> None:
    generator, served = seeing
    body = {"model": "tiny", "messages": asked(place), "max_tokens": 8, "seed": 2}
    answer = served.post(CHAT, body | {"temperature": 0}).json
    image = Image.open(io.BytesIO(picture()))
    messages = [
        {
            "role": "user",
            "content": [
                {"type": "image", "image": image},
                {"type": "text", "text": "Describe it."},
            ],
        }
    ]
    expected = generator.generate(messages, max_new_tokens=8, seed=2)
    assert answer["choices"][0]["message"]["content"] == expected.text
    assert answer["usage"]["prompt_tokens"] == expected.prompt_tokens
    refused = served.post(CHAT, body | {"chat_template_kwargs": {"a": 1}})
    assert refused.status == 400 and refused.error["param"] == "chat_template_kwargs"
