"""Replaces the addresses of images in a request by what is there."""

import asyncio
import base64
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from outrider.server.errors import invalid
from outrider.server.media.fetching import Budget, Fetcher, failed
from outrider.server.schema.chat import ImageUrl, Part
from outrider.server.schema.messages import Source
from outrider.server.schema.responses import InputPart

_SCHEMES = ("http://", "https://")
_LARGE = 1 << 18
"""Bytes of an image from which it is encoded in a thread, so that the event loop goes on."""


@dataclass(frozen=True, slots=True)
class _Found:
    """An address in a request: what holds it, its field, and its place."""

    holder: ImageUrl | Part | InputPart | Source | dict[str, Any]
    field: str
    url: str
    param: str


async def fetch_images(body: BaseModel, fetcher: Fetcher) -> None:
    """Fetch the images of a request whose addresses are `http` or `https`, and put data URLs in
    their places.

    Raises:
        ApiError: an image cannot be fetched, there are too many, or they take too long.
    """
    found = list(_addresses(body, ""))
    if not found:
        return
    if len(found) > fetcher.most_files:
        message = f"{len(found)} images are at other hosts. Give at most {fetcher.most_files}"
        raise invalid(message, found[0].param)
    budget = Budget(left=fetcher.most_bytes)
    try:
        async with fetcher.gate, asyncio.timeout(fetcher.seconds), asyncio.TaskGroup() as group:
            tasks = [group.create_task(fetcher.fetch(f.url, budget, f.param)) for f in found]
    except TimeoutError:
        reason = f"it takes more than {fetcher.seconds:g} s"
        raise failed(found[0].url, reason, found[0].param) from None
    except BaseExceptionGroup as errors:  # the first error ends the others
        raise errors.exceptions[0] from None
    for one, task in zip(found, tasks, strict=True):
        raw = task.result()
        data = await asyncio.to_thread(_data_url, raw) if len(raw) > _LARGE else _data_url(raw)
        if isinstance(one.holder, dict):
            one.holder[one.field] = data
        else:
            setattr(one.holder, one.field, data)


def _data_url(raw: bytes) -> str:
    return f"data:;base64,{base64.b64encode(raw).decode()}"


def _addresses(value: object, param: str) -> Iterator[_Found]:
    """Yield the addresses in a part of a request."""
    if isinstance(value, list):
        for at, one in enumerate(value):
            if isinstance(one, BaseModel | list | dict):
                yield from _addresses(one, f"{param}.{at}")
    elif isinstance(value, dict):  # parts of responses are checked later
        url = value.get("image_url") if value.get("type") == "input_image" else None
        if isinstance(url, str) and url.lower().startswith(_SCHEMES):
            yield _Found(value, "image_url", url, f"{param}.image_url")
    elif isinstance(value, BaseModel):
        if isinstance(value, ImageUrl | Part | InputPart | Source):
            name = "url" if isinstance(value, ImageUrl | Source) else "image_url"
            url = getattr(value, name)
            if isinstance(url, str) and url.lower().startswith(_SCHEMES):
                yield _Found(value, name, url, f"{param}.{name}")
                return
        for name in type(value).model_fields:
            yield from _addresses(getattr(value, name), f"{param}.{name}" if param else name)
