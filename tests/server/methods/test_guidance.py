"""A guided model behind a server: other prompts that requests give, or that the method derives."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

import outrider
from outrider.core.errors import ContextError
from outrider.core.types import Prompt
from outrider.engine.generator import Generator
from outrider.engine.serving.checked import checked
from outrider.guidance.classifier_free import ClassifierFree
from outrider.inputs.given import GivenPrompt
from outrider.inputs.images.messages import is_chat
from outrider.server.searches.settings import SearchSettings
from outrider.server.settings import ServerSettings
from tests.server.setups import CHAT, COMPLETE, HELLO, Running, running

OTHER = [{"role": "user", "content": "Bye"}]
SYSTEM = {"role": "system", "content": "Be brief."}
ASK: dict[str, Any] = {"model": "tiny", "max_tokens": 8, "temperature": 0}
OWN: dict[str, Any] = {"max_new_tokens": 8, "temperature": 0.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Derived(ClassifierFree):
    """Compares texts that end with `!` with the same without."""

    def contrast(self, prompt: GivenPrompt) -> GivenPrompt | None:
        if isinstance(prompt, str) and prompt.endswith("!"):
            return prompt[:-1]
        if is_chat(prompt) and str(prompt[-1]["content"]).endswith("!"):
            return [*prompt[:-1], {**prompt[-1], "content": str(prompt[-1]["content"])[:-1]}]
        return None


@pytest.fixture(scope="module")
def guided() -> Generator:
    return outrider.load(
        "tiny", threads=1, dtype="int8", drafter="lookup", guidance=Derived(scale=2.5)
    )


@pytest.fixture(scope="module")
def served_guided(guided: Generator) -> Iterator[Running]:
    settings = ServerSettings(model_names=("tiny",), searches=SearchSettings())
    with running(guided, settings) as found:
        yield found


def text(served: Running, path: str, **body: Any) -> str:
    answer = served.post(path, ASK | body)
    assert answer.status == 200, answer.body
    choice = answer.json["choices"][0]
    return choice["text"] if path == COMPLETE else choice["message"]["content"]


def test_a_conversation_has_another_one(served_guided: Running, guided: Generator) -> None:
    own = guided.generate(HELLO, contrast=OTHER, **OWN).text
    assert own != guided.generate(HELLO, **OWN).text
    assert text(served_guided, CHAT, messages=HELLO, contrast=OTHER) == own
    assert text(served_guided, CHAT, messages=HELLO, contrast="Bye") == own
    assert text(served_guided, CHAT, messages=HELLO) == guided.generate(HELLO, **OWN).text
    both = [guided.generate([SYSTEM, *HELLO], contrast=[SYSTEM, *OTHER], **OWN).text]
    both += [text(served_guided, CHAT, messages=[SYSTEM, *HELLO], contrast="Bye")]
    assert both[0] == both[1]


def test_a_text_has_another_one(served_guided: Running, guided: Generator) -> None:
    own = guided.generate("Once upon a time", contrast="The dog", **OWN).text
    assert own != guided.generate("Once upon a time", **OWN).text
    given = {"prompt": "Once upon a time", "contrast": "The dog"}
    assert text(served_guided, COMPLETE, **given) == own
    assert guided.tokenizer is not None
    ids = {name: list(guided.tokenizer.encode(value)) for name, value in given.items()}
    assert text(served_guided, COMPLETE, **ids) == own
    given["contrast"] = "One day the big dog ran to the park and"
    cut = text(served_guided, COMPLETE, **given, truncate_prompt_tokens=2)
    short = [list(guided.tokenizer.encode(value)[-2:]) for value in given.values()]
    whole = guided.generate(short[0], contrast=given["contrast"], **OWN).text
    assert cut == guided.generate(short[0], contrast=short[1], **OWN).text != whole


def test_an_answer_has_the_room_that_the_longer_prompt_leaves(guided: Generator) -> None:
    window = guided.strategy.target.info.context_length
    for own, other in ((5, 2000), (2000, 5)):
        prompt = Prompt(token_ids=(9,) * own, contrast=Prompt(token_ids=(9,) * other))
        assert checked(guided, prompt, {}).max_new_tokens == window - 2000
    prompt = Prompt(token_ids=(9,), contrast=Prompt(token_ids=(9,) * window))
    with pytest.raises(ContextError):
        checked(guided, prompt, {})


def test_what_the_method_derives_is_read(served_guided: Running, guided: Generator) -> None:
    loud = [{"role": "user", "content": "Hello!"}]
    own = guided.generate(loud, **OWN).text
    assert own == guided.generate(loud, contrast=HELLO, **OWN).text
    assert text(served_guided, CHAT, messages=loud) == own
    assert text(served_guided, CHAT, messages=loud, contrast=OTHER) != own
    own = guided.generate("Once upon a time!", **OWN).text
    assert text(served_guided, COMPLETE, prompt="Once upon a time!") == own
    responses = served_guided.post(
        "/v1/responses",
        {"model": "tiny", "input": "Hello!", "temperature": 0, "max_output_tokens": 8},
    ).json
    spoken = responses["output"][0]["content"][0]["text"]
    assert spoken == guided.generate(loud, **OWN).text
    messages = served_guided.post(
        "/v1/messages", {"model": "tiny", "messages": loud, "max_tokens": 8, "temperature": 0}
    ).json
    assert messages["content"][0]["text"] == spoken


def test_a_search_reads_it(served_guided: Running, guided: Generator) -> None:
    body = {"model": "tiny", "search": "beam(num_beams=2)", "max_tokens": 6}
    own = guided.search("beam(num_beams=2)", HELLO, contrast=OTHER, max_new_tokens=6).best
    for contrast in (OTHER, "Bye"):
        found = served_guided.post("/v1/search", body | {"messages": HELLO, "contrast": contrast})
        assert found.json["candidates"][0]["text"] == own.text
    own = guided.search("beam(num_beams=2)", "Once!", max_new_tokens=6).best
    found = served_guided.post("/v1/search", body | {"prompt": "Once!"}).json
    assert found["candidates"][0]["text"] == own.text
    wrong = served_guided.post("/v1/search", body | {"prompt": "Once", "contrast": OTHER})
    assert (wrong.status, wrong.error["param"]) == (400, "contrast")


def test_what_cannot_be_followed_is_refused(served_guided: Running, served: Running) -> None:
    for server, path, body, words in (
        (served, CHAT, {"messages": HELLO, "contrast": OTHER}, "the model is not guided"),
        (served, COMPLETE, {"prompt": "Once", "contrast": "x"}, "the model is not guided"),
        (served_guided, CHAT, {"messages": HELLO, "prompt_logprobs": 1}, "guided by prompts"),
        (served_guided, CHAT, {"messages": HELLO, "contrast": ""}, "contrast is ''"),
        (served_guided, CHAT, {"messages": HELLO, "contrast": []}, "contrast is []"),
        (served_guided, COMPLETE, {"prompt": "Once", "contrast": [10**6]}, "1000000"),
        (served_guided, COMPLETE, {"prompt": "Once", "contrast": "a " * 2100}, "at most 2048"),
    ):
        answer = server.post(path, ASK | body)
        assert answer.status == 400, answer.body
        assert words in answer.error["message"], answer.error


def test_the_model_tells_its_guidance(served_guided: Running, served: Running) -> None:
    assert served_guided.get("/v1/models").json["data"][0]["guidance"] == 2.5
    assert "guidance" not in served.get("/v1/models").json["data"][0]
