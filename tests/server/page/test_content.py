"""The page as a file: nothing from elsewhere, text as text, and a policy that says so."""

import asyncio
import base64
import hashlib
import re

from outrider.server.endpoints.page import PAGE, content_security_policy, page

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


def test_it_is_answered_with_its_policy() -> None:
    answer = asyncio.run(page())
    assert bytes(answer.body).decode() == TEXT
    assert answer.headers["content-security-policy"] == content_security_policy(TEXT)
    assert answer.headers["content-type"].startswith("text/html")
