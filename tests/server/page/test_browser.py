"""The page in a browser: a chat is answered, tokens are tinted, hostile text stays text."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.deploy.processes import serving
from tests.server.page.browser import chromium, event

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]

KEY = "a secret"
HOSTILE = '<img src=x onerror="window.hacked = 1"><script>window.hacked = 1</script>'
TIERS = ("target", "qualifier", "draft", "copy")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def server(browser: Any) -> Iterator[str]:
    with serving("--target", "tiny", keys=f"me={KEY}") as url:
        yield url


@pytest.fixture
def page(browser: Any, server: str) -> Iterator[Any]:
    """The page after the key was typed; at its end, it must have asked nobody else."""
    with browser.new_context(viewport={"width": 1100, "height": 760}) as context:
        found = context.new_page()
        problems: list[str] = []
        asked: list[str] = []
        found.on("pageerror", lambda error: problems.append(str(error)))
        found.on("console", lambda m: problems.append(m.text) if "Security" in m.text else None)
        found.on("request", lambda request: asked.append(request.url))
        found.goto(server)
        found.get_by_label("Key of the server").fill(KEY)
        found.keyboard.press("Tab")
        found.wait_for_selector("#model option", state="attached")
        yield found
        assert problems == []
        assert [u for u in asked if not u.startswith((server, "data:"))] == []


def ask(page: Any, text: str) -> Any:
    """Send a message, and return the answer's element when the answer has ended."""
    count = page.locator(".answer").count()
    page.get_by_label("Message").fill(text)
    page.get_by_label("Message").press("Enter")
    page.locator(".answer").nth(count).wait_for()
    page.get_by_role("button", name="Send").wait_for()
    return page.locator(".answer").nth(count)


def answers(page: Any, *chunks: dict[str, Any]) -> None:
    """Let the page get these chunks in place of an answer of the server."""
    body = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"
    page.route(
        "**/v1/chat/completions",
        lambda route: route.fulfill(body=body, content_type="text/event-stream"),
    )


def without_end(route: Any) -> None:
    """Let an answer go on to its limit, so that there is time to stop it."""
    route.continue_(post_data=json.dumps(route.request.post_data_json | {"ignore_eos": True}))


def test_a_message_is_answered_and_the_undrafted_text_is_equal(page: Any) -> None:
    page.get_by_label("System text").fill("Answer briefly.")
    answer = ask(page, "Tell me a story about a king.")
    spans = answer.locator(".text span")
    text = answer.locator(".text").inner_text()
    assert text.strip() and "".join(spans.all_inner_texts()) == text
    for span in spans.all():
        assert span.get_attribute("class") in TIERS
        color = span.evaluate("one => getComputedStyle(one).backgroundColor")
        assert color not in ("rgba(0, 0, 0, 0)", "transparent")
    with page.expect_request("**/v1/chat/completions") as sent:
        answer.get_by_role("button", name="Same seed, undrafted").click()
    repeated = sent.value.post_data_json
    assert repeated["speculation"] == {"mode": "none"}
    assert f"seed {repeated['seed']}" in answer.locator(".figures").first.inner_text()
    assert repeated["messages"][0] == {"role": "system", "content": "Answer briefly."}
    answer.get_by_text("Equal").wait_for()
    assert "undrafted" in answer.inner_text() and "times" in answer.inner_text()


def test_it_says_what_the_server_does(page: Any) -> None:
    ask(page, "What is the sky?")
    page.wait_for_selector("#places li")
    assert page.locator("#queue").inner_text() == "0, 0"
    assert float(page.locator("#speed").inner_text()) > 0
    assert "%" in page.locator("#places li").first.inner_text()


def test_earlier_messages_are_part_of_the_next_request(page: Any) -> None:
    first = ask(page, "My name is Ann.").locator(".text").inner_text()
    with page.expect_request("**/v1/chat/completions") as sent:
        ask(page, "What is my name?")
    messages = sent.value.post_data_json["messages"]
    assert [m["role"] for m in messages] == ["user", "assistant", "user"]
    assert messages[1]["content"] == first
    page.get_by_role("button", name="New").click()
    assert page.locator("#talk").inner_text() == ""


def test_another_text_is_called_different(page: Any) -> None:
    answers(page, event("One two"), event("", finish_reason="stop"))
    answer = ask(page, "Count.")
    answers(page, event("One three", token_ids=[2]), event("", finish_reason="stop"))
    answer.get_by_role("button", name="Same seed, undrafted").click()
    answer.get_by_text("Different from token 1 on").wait_for()
    answer.get_by_text("Undrafted text").click()
    assert answer.get_by_text("One three").is_visible()


def test_reasoning_is_shown_apart_from_the_answer(page: Any) -> None:
    thought = {"delta": {"content": None, "reasoning_content": HOSTILE}, "sources": []}
    answers(page, event("") | {"choices": [thought]}, event("Yes"), event("", finish_reason="stop"))
    answer = ask(page, "Think.")
    assert answer.locator("details .text").inner_text() == HOSTILE
    assert answer.locator("> .text").inner_text() == "Yes"
    with page.expect_request("**/v1/chat/completions") as sent:
        ask(page, "And?")
    assert sent.value.post_data_json["messages"][1] == {"role": "assistant", "content": "Yes"}


def test_hostile_text_is_shown_as_text(page: Any) -> None:
    answers(page, event(HOSTILE, source=HOSTILE), event("", finish_reason="stop"))
    answer = ask(page, HOSTILE)
    assert answer.locator(".text").inner_text() == HOSTILE
    assert page.locator(".user .text").inner_text() == HOSTILE
    assert page.locator("#talk :is(img, script)").count() == 0
    assert page.evaluate("window.hacked") is None


def test_the_policy_stops_scripts_that_are_added(browser: Any, server: str) -> None:
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(server)
        page.evaluate(
            """() => { const one = document.createElement("script");
            one.textContent = "window.hacked = 1"; document.body.append(one); }"""
        )
        assert page.evaluate("window.hacked") is None


def test_errors_are_shown_and_the_message_can_be_sent_again(page: Any) -> None:
    page.get_by_label("Temperature").fill("7")
    answer = ask(page, "Hello")
    assert "temperature" in answer.get_by_role("alert").inner_text()
    assert page.get_by_label("Message").input_value() == "Hello"
    answers(page, event("Half"), {"error": {"message": "the engine failed"}})
    page.get_by_label("Temperature").fill("")
    answer = ask(page, "Hello")
    assert "the engine failed" in answer.get_by_role("alert").inner_text()
    assert answer.locator(".text").inner_text() == "Half"


def test_keys_send_break_lines_and_stop(page: Any) -> None:
    box = page.get_by_label("Message")
    box.fill("one")
    box.press("Shift+Enter")
    assert box.input_value() == "one\n"
    page.get_by_label("Most tokens").fill("1900")
    page.route("**/v1/chat/completions", without_end)
    box.press("Enter")
    page.wait_for_selector(".answer .text span")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Send").wait_for()
    assert page.get_by_role("alert").inner_text() == "Stopped."


def test_events_are_read_wherever_the_stream_is_cut(page: Any) -> None:
    text = 'data: {"a": "\u00fc\U0001f40e"}\n\n: ping\n\ndata: {"b":\r\ndata: 2}\r\n\r\n'
    assert page.evaluate(READ, [text + "data: [DONE]\n\n"]) == [{"a": "\u00fc\U0001f40e"}, {"b": 2}]
    assert "ended before" in page.evaluate(READ, [text])[-1]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_and_its_colors_can_be_read(browser: Any, server: str, scheme: Any) -> None:
    size = {"width": 360, "height": 740}
    with browser.new_context(viewport=size, color_scheme=scheme) as context:
        page = context.new_page()
        page.goto(server)
        page.get_by_label("Key of the server").fill(KEY)
        page.keyboard.press("Tab")
        page.wait_for_selector("#model option", state="attached")
        chunks = [event(f"{tier} " * 9, tier) for tier in ("target", "draft", "grammar", "x")]
        answers(page, *chunks, event("w" * 300, "qualifier"), event("", finish_reason="stop"))
        ask(page, "m" * 300)
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
        assert min(page.evaluate(CONTRASTS)) >= 4.5
        page.locator("summary").first.click()
        assert not page.locator("#side").evaluate("one => one.open")


READ = """async ([text]) => {
  const bytes = [...new TextEncoder().encode(text)].map((one) => new Uint8Array([one]));
  const body = new ReadableStream({
    pull(to) { if (bytes.length) to.enqueue(bytes.shift()); else to.close(); },
  });
  window.fetch = async () => new Response(body);
  const found = [];
  try { for await (const chunk of stream({})) found.push(chunk); }
  catch (error) { found.push(error.message); }
  return found;
}"""
"""Reads a stream that arrives byte by byte."""

CONTRASTS = """() => {
  const numbers = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const back = (one) => {
    if (!one) return [255, 255, 255];
    const [r, g, b, a = 1] = numbers(getComputedStyle(one).backgroundColor);
    if (a === 0) return back(one.parentElement);
    const under = back(one.parentElement);
    return [r, g, b].map((v, i) => a * v + (1 - a) * under[i]);
  };
  const places = ".answer span, .key span, .figures, .user .text, button.main";
  return [...document.querySelectorAll(places)]
    .map((one) => {
      const pair = [light(numbers(getComputedStyle(one).color)), light(back(one))].sort();
      return (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
    });
}"""
