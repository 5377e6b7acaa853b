"""The page as a file: nothing from elsewhere, text as text, and a policy that says so."""

import asyncio
import base64
import hashlib
import re

from outrider.server.endpoints.page import PAGE, content_security_policy, page
from tests.server.setups import Running

TEXT = PAGE.read_text(encoding="utf-8")


def directives(policy: str) -> dict[str, str]:
    parts = (part.strip().partition(" ") for part in policy.split(";"))
    return {name: value for name, _, value in parts}


def test_it_refers_to_nothing_outside() -> None:
    assert re.findall(r"(?:https?:)?//[a-z]+\.[a-z.]+", TEXT, re.I) == []
    assert re.findall(r"<link (?!rel=\"icon\" href=\"data:,\")|<script |@import|url\(", TEXT) == []


def test_text_is_never_read_as_markup_or_code() -> None:
    unsafe = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|Function\(|srcdoc"
    assert re.findall(unsafe + r"|DOMParser|createContextualFragment|\bon[a-z]+=", TEXT) == []


def test_the_policy_allows_its_own_script_and_style_only() -> None:
    policy = directives(content_security_policy("<style>a</style><script>b</script>"))
    digest = base64.b64encode(hashlib.sha256(b"b").digest()).decode()
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == f"'sha256-{digest}'"
    assert policy["connect-src"] == "'self'"
    assert not any("unsafe" in value for value in policy.values())
    assert directives(content_security_policy("<p>"))["script-src"] == "'none'"


def test_no_other_page_loads_scripts_from_elsewhere(served: Running) -> None:
    """FastAPI would add two."""
    assert served.get("/docs").status == served.get("/redoc").status == 404
    assert served.get("/openapi.json").status == 200


def test_its_head_is_that_of_the_page(served: Running) -> None:
    head, page = served.send("HEAD", "/", None, {}), served.get("/")
    assert (head.status, head.body, page.body.decode()) == (200, b"", TEXT)
    for name in ("content-type", "content-length", "content-security-policy"):
        assert head.headers[name] == page.headers[name]


def test_it_is_answered_with_its_policy() -> None:
    answer = asyncio.run(page())
    assert bytes(answer.body).decode() == TEXT
    assert answer.headers["content-security-policy"] == content_security_policy(TEXT)
    assert answer.headers["content-type"].startswith("text/html")
