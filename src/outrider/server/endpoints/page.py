"""The page of the server: a chat that shows which tier wrote each token."""

import base64
import hashlib
import re
from functools import cache
from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import Response

router = APIRouter()

PAGE = Path(__file__).parents[1] / "page.html"


@router.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
async def page() -> Response:
    """Return the page. It needs no key: what it asks the server for needs one."""
    text, policy = _page()
    headers = {
        "content-security-policy": policy,
        "cache-control": "no-cache",
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
    }
    return Response(text, media_type="text/html", headers=headers)


def content_security_policy(text: str) -> str:
    """Return the policy under which a page runs its own script and style, and nothing else.

    The page connects to its own server only, and shows images that are part of it (`data:`).

    Args:
        text: the page, with at most one `<script>` and one `<style>`.
    """
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src {_source(text, 'script')}",
            f"style-src {_source(text, 'style')}",
            "connect-src 'self'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    )


@cache
def _page() -> tuple[str, str]:
    """Return the page and its policy."""
    text = PAGE.read_text(encoding="utf-8")
    return text, content_security_policy(text)


def _source(text: str, tag: str) -> str:
    """Return the hash of the content of a tag, as the policy names it."""
    found = re.search(f"<{tag}>(.*?)</{tag}>", text, re.S)
    if found is None:
        return "'none'"
    digest = base64.b64encode(hashlib.sha256(found[1].encode()).digest()).decode()
    return f"'sha256-{digest}'"
