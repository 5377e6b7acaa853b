"""An agent loop with two functions: do all calls parse and validate?

Talks to a server with the official client (`pip install openai jsonschema-rs`). With `required`,
each prompt must be answered by a call; with `auto` the model may choose, its tools are strict, and
what it calls is answered.

    outrider serve --target model.gguf
    python -m benchmarks.constraints.tools http://127.0.0.1:8000/v1 --choice required
    python -m benchmarks.constraints.tools http://127.0.0.1:8000/v1 --choice auto
"""

import argparse
import json
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jsonschema_rs
import openai

HOTEL = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 40},
        "nights": {"type": "integer", "minimum": 1, "maximum": 30},
        "stars": {"enum": [3, 4, 5]},
        "breakfast": {"type": "boolean"},
    },
    "required": ["city", "nights"],
    "additionalProperties": False,
}
WEATHER = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 40},
        "unit": {"enum": ["celsius", "fahrenheit"]},
        "days": {"type": "array", "items": {"enum": ["today", "tomorrow"]}, "maxItems": 2},
    },
    "required": ["city", "unit"],
    "additionalProperties": False,
}
SCHEMAS = {"find_hotel": HOTEL, "get_weather": WEATHER}
DESCRIPTIONS = {"find_hotel": "Finds a hotel in a city.", "get_weather": "Tells the weather."}
RESULTS = {"find_hotel": "Hotel Central, 120 a night", "get_weather": "18 degrees, light rain"}
CITIES = ("Rome", "Oslo", "Cairo", "Quito", "Perth", "Kyoto", "Lagos", "Lima", "Bern", "Porto")
REQUESTS = (
    "What is the weather like in {city} today?",
    "I need a hotel in {city} for three nights.",
    "Will it rain in {city} tomorrow? I use Fahrenheit.",
    "Book me four stars with breakfast in {city}, two nights.",
    "Do I need a coat in {city}?",
)
CALL = '<tool_call>\n{{"name": "{0}", "arguments": {1}}}\n</tool_call>'
EXAMPLE = (
    ("user", "What is the weather like in Lisbon?"),
    ("assistant", CALL.format("get_weather", '{"city": "Lisbon", "unit": "celsius"}')),
    ("user", "And a hotel in Turin for two nights, please."),
    ("assistant", CALL.format("find_hotel", '{"city": "Turin", "nights": 2}')),
)
"""Earlier turns that show a small model how it calls a function (`--example`)."""

ROUNDS = 3
"""Answers of one conversation at most."""


def tools(strict: bool) -> list[Any]:
    """Return both functions as requests have them."""
    return [
        {
            "type": "function",
            "function": {
                "name": name,
                "description": DESCRIPTIONS[name],
                "parameters": schema,
                "strict": strict,
            },
        }
        for name, schema in SCHEMAS.items()
    ]


def judged(call: Any) -> str:
    """Return `valid`, or what is wrong with a call."""
    if call.function.name not in SCHEMAS:
        return "unknown name"
    try:
        arguments = json.loads(call.function.arguments)
    except ValueError:
        return "no JSON"
    fits = jsonschema_rs.is_valid(SCHEMAS[call.function.name], arguments)
    return "valid" if fits else "not of the schema"


def converse(
    client: openai.OpenAI, model: str, messages: list[Any], how: dict[str, Any]
) -> Counter[str]:
    """Hold one conversation: calls are answered until the model answers in text."""
    found = Counter[str]()
    must = how["tool_choice"] == "required"
    for _ in range(1 if must else ROUNDS):
        answer = client.chat.completions.create(model=model, messages=messages, **how)
        choice = answer.choices[0]
        found["answers"] += 1
        found[f"finish {choice.finish_reason}"] += 1
        calls = choice.message.tool_calls or []
        found["answers with calls"] += bool(calls)
        for call in calls:
            found["calls"] += 1
            found[judged(call)] += 1
        if not calls:
            break
        messages.append(choice.message.model_dump(exclude_none=True))
        messages += [
            {"role": "tool", "tool_call_id": c.id, "content": RESULTS.get(c.function.name, "-")}
            for c in calls
            if c.type == "function"
        ]
    return found


def main() -> None:
    """Hold the conversations, and print what was counted as a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--choice", choices=("required", "auto"), default="required")
    parser.add_argument("--count", type=int, default=200, help="conversations")
    parser.add_argument("--at-once", type=int, default=8, help="conversations at the same time")
    parser.add_argument("--example", action="store_true", help="show two calls in earlier turns")
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--max-tokens", type=int, default=256)
    given = parser.parse_args()
    client = openai.OpenAI(base_url=given.url, api_key="none", timeout=3600)
    model = client.models.list().data[0].id
    strict = given.choice == "auto"
    begun = time.perf_counter()

    def hold(at: int) -> Counter[str]:
        text = REQUESTS[at % len(REQUESTS)].format(city=CITIES[at // len(REQUESTS) % 10])
        how = {
            "tools": tools(strict),
            "tool_choice": given.choice,
            "parallel_tool_calls": False,
            "temperature": given.temperature,
            "max_tokens": given.max_tokens,
            "seed": at,
        }
        turns = (*(EXAMPLE if given.example else ()), ("user", text))
        messages = [{"role": role, "content": content} for role, content in turns]
        return converse(client, model, messages, how)

    total = Counter[str]()
    with ThreadPoolExecutor(given.at_once) as pool:
        for at, one in enumerate(pool.map(hold, range(given.count)), 1):
            total += one
            if at % 10 == 0:
                print(at, dict(total), file=sys.stderr, flush=True)
    seconds = round(time.perf_counter() - begun, 1)
    head: dict[str, Any] = {"tool_choice": given.choice, "strict": strict}
    head |= {"example": given.example, "conversations": given.count}
    json.dump({**head, "seconds": seconds, **total}, sys.stdout)
    print()


if __name__ == "__main__":
    main()
