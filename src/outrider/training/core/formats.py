"""Turns the records of public data sets into training texts.

A format is a function from one JSON record to one or more documents. A document is plain text.
Turns of a chat have the markers of `CHAT_TEMPLATE`, which the tokenizer maps to single tokens.
"""

import json
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

END_OF_TEXT = "<|endoftext|>"
USER = "<|user|>"
ASSISTANT = "<|assistant|>"
END_OF_TURN = "<|end|>"
SPECIAL_TOKENS = (END_OF_TEXT, USER, ASSISTANT, END_OF_TURN)

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] + '\\n\\n' }}"
    "{% else %}{{ '<|' + message['role'] + '|>\\n' + message['content'] + '<|end|>\\n' }}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
)

Record = dict[str, Any]
Turn = tuple[str, str]
Format = Callable[[Record, random.Random], Iterator[str]]


def chat(turns: Sequence[Turn], *, system: str = "") -> str:
    """Format the training text of a chat; `turns` are (role, text) with role user or assistant."""
    parts = [f"{system}\n\n"] if system else []
    for role, text in turns:
        parts.append(f"{USER if role == 'user' else ASSISTANT}\n{text.strip()}{END_OF_TURN}\n")
    return "".join(parts)


def question(prompt: str, answer: str) -> str:
    """Format a chat of one user turn and one assistant turn."""
    return chat([("user", prompt), ("assistant", answer)])


def text(record: Record, rng: random.Random) -> Iterator[str]:
    """Yield the field `text` unchanged."""
    yield record["text"].strip()


def story_qa(record: Record, rng: random.Random) -> Iterator[str]:
    """Yield a tale (`sections`), then its questions in chat form, each with its passage."""
    sections: list[str] = record["sections"]
    yield "\n\n".join(sections)
    by_passage: dict[int, list[Record]] = {}
    for pair in record["qa"]:
        first = str(pair.get("section", "1")).split(",")[0].strip()
        number = int(first) if first.isdigit() else 1
        by_passage.setdefault(min(max(number, 1), len(sections)), []).append(pair)
    for number, pairs in by_passage.items():
        passage = sections[number - 1]
        lead = f"Read this passage and answer the question.\n\n{passage}\n\n{pairs[0]['q']}"
        turns = [("user", lead), ("assistant", pairs[0]["a"])]
        for pair in pairs[1:]:
            turns += [("user", pair["q"]), ("assistant", pair["a"])]
        yield chat(turns)


def dialogue(record: Record, rng: random.Random) -> Iterator[str]:
    """Yield a dialogue of `turns`, with persona lines, if given, as the system text."""
    persona = " ".join(record.get("assistant_persona", ()))
    # Half of the dialogues have no persona, so that the model also works without one.
    system = persona if persona and rng.random() < 0.5 else ""
    yield chat([(turn["role"], turn["text"]) for turn in record["turns"]], system=system)


def service_calls(record: Record, rng: random.Random) -> Iterator[str]:
    """Yield a task dialogue with its service calls as JSON at the start of assistant turns."""
    calls = {call["before_turn"]: call for call in record.get("calls", ())}
    turns: list[Turn] = []
    for index, turn in enumerate(record["turns"]):
        content = turn["text"]
        call = calls.get(index)
        if call is not None and turn["role"] == "assistant":
            content = f"{_call_json(call['method'], call['parameters'])}\n{content}"
        turns.append((turn["role"], content))
    yield chat(turns)


def order_calls(record: Record, rng: random.Random) -> Iterator[str]:
    """Yield a coffee order: requests made after a user's turn start the assistant's answer."""
    turns: list[Turn] = []
    pending: list[str] = []
    for turn in record["turns"]:
        content = turn["text"]
        if turn["role"] == "assistant" and pending:
            content, pending = "\n".join([*pending, content]), []
        turns.append((turn["role"], content))
        for call in turn.get("calls", ()):
            request = _parsed(call.get("request", ""))
            if len(pending) < 3 and request is not None:
                pending.append(_call_json(call["api_call"], request))
    yield chat(turns)


def _parsed(request: str) -> Any:
    """Parse the JSON value of a request; None if it is malformed."""
    try:
        return json.loads(request)
    except json.JSONDecodeError:
        return None


def _call_json(name: str, arguments: Any) -> str:
    return json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)


def instruction(record: Record, rng: random.Random) -> Iterator[str]:
    """Yield a chat of the fields `prompt` and `response`."""
    yield question(record["prompt"], record["response"])


def trivia(record: Record, rng: random.Random) -> Iterator[str]:
    """Yield a question, with its choices in two of three cases, and the answer."""
    prompt = record["question"]
    if record["choices"] and rng.random() < 0.67:
        prompt += "\n" + "\n".join(f"- {choice}" for choice in record["choices"])
    yield question(prompt, record["answer"])


def toy_story(record: Record, rng: random.Random) -> Iterator[str]:
    """Yield statements `s` as user turns, each ended by a question `q` and answer `a`."""
    turns: list[Turn] = []
    facts: list[str] = []
    for line in record["lines"]:
        if "s" in line:
            facts.append(line["s"])
            continue
        turns += [("user", " ".join([*facts, line["q"]])), ("assistant", line["a"])]
        facts = []
    if turns:
        yield chat(turns)


def worked_sum(record: Record, rng: random.Random) -> Iterator[str]:
    """Yield a word problem with its worked `solution` and final `answer`."""
    yield question(record["question"], f"{record['solution']}\nThe answer is {record['answer']}.")


def short_sum(record: Record, rng: random.Random) -> Iterator[str]:
    """Yield a question with a bare `answer`, after the `equation` if there is one."""
    equation = record.get("equation", "").replace(".0", "").strip()
    answer = f"{equation} = {record['answer']}" if equation else record["answer"]
    yield question(record["question"], answer)


def commands(record: Record, rng: random.Random) -> Iterator[str]:
    """Yield the page of examples of a command, as a chat about the command."""
    lines = [f"- {item['task']}:\n`{item['command']}`" for item in record["examples"]]
    answer = "\n".join([record["description"], *lines])
    if rng.random() < 0.5:
        yield question(f"How do I use the command {record['name']}?", answer)
        return
    item = rng.choice(record["examples"]) if record["examples"] else None
    if item is not None:
        yield question(f"{record['name']}: {item['task']}", f"`{item['command']}`")


def code(record: Record, rng: random.Random) -> Iterator[str]:
    """Yield a source file; a chat if it has a `prompt`."""
    source = record["code"].strip()
    if record.get("prompt"):
        yield question(record["prompt"], f"```python\n{source}\n```")
    else:
        yield f"```python\n{source}\n```"


FORMATS: dict[str, Format] = {
    "code": code,
    "commands": commands,
    "dialogue": dialogue,
    "instruction": instruction,
    "order_calls": order_calls,
    "service_calls": service_calls,
    "short_sum": short_sum,
    "story_qa": story_qa,
    "text": text,
    "toy_story": toy_story,
    "trivia": trivia,
    "worked_sum": worked_sum,
}
"""Formats by the name used in a configuration."""
