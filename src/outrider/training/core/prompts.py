"""Held-out evaluation prompts: beginnings of stories, and chats, with their source and licence."""

import json
import random
import re
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from outrider.training.core.config import FamilyConfig, PromptSource, Source
from outrider.training.core.corpus import documents
from outrider.training.core.formats import ASSISTANT, END_OF_TURN, USER, chat

_TURN = re.compile(
    f"({re.escape(USER)}|{re.escape(ASSISTANT)})\n(.*?){re.escape(END_OF_TURN)}\n", re.DOTALL
)
_MOST_CHARACTERS = 1200


def write_prompts(config: FamilyConfig, data: Path, tokenizer: Tokenizer, path: Path) -> int:
    """Write one JSON line for each prompt; return their number.

    Fields: `prompt` (a string to continue, or a list of messages that ends with the user's),
    `kind` (story or chat), `source` and `licence`.
    """
    lines: list[str] = []
    for source in config.prompts:
        for prompt in _chosen(source, config, data, tokenizer):
            fields = {
                "prompt": prompt,
                "kind": source.kind,
                "source": source.name,
                "licence": source.licence,
            }
            lines.append(json.dumps(fields, ensure_ascii=False))
    path.write_text("\n".join(lines) + "\n" if lines else "", encoding="utf-8")
    return len(lines)


def _chosen(
    source: PromptSource, config: FamilyConfig, data: Path, tokenizer: Tokenizer
) -> list[Any]:
    rng = random.Random(f"{config.seed}/prompts/{source.name}/{source.format}")
    plain = Source(name=source.name, file=source.file, format=source.format)
    found = documents(plain, data, config.seed)
    rng.shuffle(found)
    prompts: list[Any] = []
    for document in found:
        if len(prompts) == source.count:
            break
        talk = USER in document
        if talk != (source.kind == "chat"):
            continue
        prompt = messages(document) if talk else beginning(document, tokenizer, rng)
        if prompt and len(json.dumps(prompt)) <= _MOST_CHARACTERS:
            prompts.append(prompt)
    return prompts


def prompt_text(prompt: str | list[dict[str, str]]) -> str:
    """Return the text for a prompt: a chat is formatted and ends with the assistant's marker."""
    if isinstance(prompt, str):
        return prompt
    system = "".join(item["content"] for item in prompt if item["role"] == "system")
    turns = [(item["role"], item["content"]) for item in prompt if item["role"] != "system"]
    return chat(turns, system=system) + f"{ASSISTANT}\n"


def beginning(text: str, tokenizer: Tokenizer, rng: random.Random) -> str:
    """Return the first 60 to 120 tokens of `text`, cut before a blank; empty if it is shorter."""
    wanted = rng.randint(60, 120)
    encoding = tokenizer.encode(text[:1000])
    if len(encoding.ids) <= wanted:
        return ""
    end = encoding.offsets[wanted - 1][1]
    return text[:end].rsplit(maxsplit=1)[0] if not text[end : end + 1].isspace() else text[:end]


def messages(document: str) -> list[dict[str, str]]:
    """Return the messages of a chat document up to its first user turn."""
    first = _TURN.search(document)
    if first is None:
        return []
    system = document[: first.start()].strip()
    start = [{"role": "system", "content": system}] if system else []
    return [*start, {"role": "user", "content": first.group(2)}]
