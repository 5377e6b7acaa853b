"""Grammars that no client should send."""

from typing import Any

RULES = 3000
"""Rules inside each other: more than the stack of the engine of grammars holds."""


def lark_chain(rules: int) -> str:
    """A grammar whose rules are two of the next one; it has 2 ** rules letters."""
    lines = [f"r{i}: r{i + 1} r{i + 1}" for i in range(rules)]
    return "\n".join(["start: r0", *lines, f'r{rules}: "a"']) + "\n"


def doubled(count: int) -> dict[str, Any]:
    """A schema whose alternatives are multiplied with each level."""
    own: dict[str, Any] = {f"d{count}": {"type": "object"}}
    for i in range(count):
        following = {"$ref": f"#/$defs/d{i + 1}"}
        both = [
            {"anyOf": [following, {"properties": {f"{name}{i}": {"type": "string"}}}]}
            for name in "ab"
        ]
        own[f"d{i}"] = {"allOf": both}
    return {"$ref": "#/$defs/d0", "$defs": own}


def inside(levels: int) -> dict[str, Any]:
    """A schema of so many lists inside each other."""
    found: dict[str, Any] = {"type": "null"}
    for _ in range(levels):
        found = {"type": "array", "items": found}
    return found


LONG = "x" * (300 << 10)
COUNTED = "(a{1000}){1000}"
MANY = [f"k{i}" for i in range(20_000)]

HOSTILE: dict[str, dict[str, Any]] = {
    # regular expressions
    "a count of a count": {"guided_regex": COUNTED},
    "counts three deep": {"guided_regex": "((a{100}){100}){100}"},
    "a huge count": {"guided_regex": "a{99999999999}"},
    "open brackets": {"guided_regex": "(" * 100_000},
    "brackets inside each other": {"guided_regex": "(" * 5000 + "a" + ")" * 5000},
    "look-ahead": {"guided_regex": "(?=a)b"},
    "a back reference": {"guided_regex": r"(a)\1"},
    "bytes that are no text": {"guided_regex": r"(?-u:\xff)+"},
    "an unknown class": {"guided_regex": r"\p{Klingon}"},
    "a set without an end": {"guided_regex": "[a-"},
    "half of a surrogate escape": {"guided_regex": r"\u{d800}"},
    "a regex that is too long": {"guided_regex": LONG},
    "an empty regex": {"guided_regex": " "},
    "a pattern that fits nothing": {"guided_regex": r"a\bb"},
    # Lark
    "rules that double": {"guided_grammar": lark_chain(40)},
    "rules that end the process": {"guided_grammar": lark_chain(RULES)},
    "terminals that double": {
        "guided_grammar": lark_chain(40).replace("r", "R").replace("staRt", "start")
    },
    "repeated repetitions": {"guided_grammar": 'start: ("a"~1000)~1000\n'},
    "a circle": {"guided_grammar": "start: a\na: b\nb: a\n"},
    "an unknown rule": {"guided_grammar": "start: nothing\n"},
    "no start": {"guided_grammar": 'other: "a"\n'},
    "Lark brackets": {"guided_grammar": "start: " + "(" * 30_000 + '"a"' + ")" * 30_000},
    "an import of a file": {"guided_grammar": "%import ..passwd.LINE\nstart: LINE\n"},
    "an unknown special token": {"guided_grammar": "start: <|nothing|>\n"},
    "a schema inside with an address": {
        "guided_grammar": 'start: %json {"$ref": "http://10.0.0.1/a"}\n'
    },
    "many words": {"guided_grammar": "start: " + " | ".join(f'"{k}"' for k in MANY)},
    "an intersection of rules": {"guided_grammar": "start: /.*a/ & /.*b/\n"},
    # GBNF
    "an unknown GBNF rule": {"grammar": "root ::= nothing"},
    "GBNF brackets": {"grammar": "root ::= " + "(" * 5000 + '"a"' + ")" * 5000},
    "a GBNF circle": {"grammar": "root ::= a\na ::= root\n"},
    "a GBNF text without an end": {"grammar": 'root ::= "a'},
    "no GBNF": {"grammar": "\u0000\u0001"},
    "GBNF that is too long": {"grammar": f'root ::= "{LONG}"'},
    # choices
    "choices that are too long": {"guided_choice": [LONG]},
    "twenty thousand choices": {"guided_choice": MANY},
    # JSON schemas
    "lists inside each other": {"guided_json": inside(100)},
    "alternatives that multiply": {"guided_json": doubled(14)},
    "a reference to itself": {"guided_json": {"$ref": "#"}},
    "all of itself": {"guided_json": {"allOf": [{"$ref": "#"}]}},
    "an address": {"guided_json": {"$ref": "http://169.254.169.254/latest"}},
    "a file": {"guided_json": {"$ref": "file:///etc/passwd"}},
    "an unknown reference": {"guided_json": {"$ref": "#/$defs/none"}},
    "a pattern of counts": {"guided_json": {"type": "string", "pattern": f"^{COUNTED}$"}},
    "a multiple that takes long": {"guided_json": {"type": "integer", "multipleOf": 1_000_003}},
    "a minimum of items": {"guided_json": {"type": "array", "minItems": 10**9}},
    "a minimum of 4000 digits": {"guided_json": '{"minItems": ' + "9" * 4000 + "}"},
    "a giant number": {"guided_json": '{"type": "integer", "minimum": ' + "9" * 4000 + "}"},
    "keys twice": {"guided_json": '{"type": "string", "type": 7}'},
    "five thousand properties": {
        "guided_json": {"properties": {f"p{i}": {"type": "string"} for i in range(5000)}}
    },
    "two thousand patterns": {
        "guided_json": {
            "type": "object",
            "properties": {
                f"p{i}": {"type": "string", "pattern": "^[a-z]{1,100}$"} for i in range(2000)
            },
        }
    },
    "a property that cannot be": {
        "guided_json": {"type": "object", "properties": {"a": False}, "required": ["a"]}
    },
    "white space that looks ahead": {"guided_json": {}, "guided_whitespace_pattern": "(?= ) "},
    "no JSON": {"guided_json": "{" * 10_000},
    "no schema": {"guided_json": {"type": 7}},
}
"""Fields of requests, by what is wrong with them. Each is refused."""

FEW = (
    *(
        "an unknown rule",
        "a minimum of 4000 digits",
        "rules that end the process",
        "an address",
        "look-ahead",
    ),
    *("lists inside each other", "a circle", "an unknown GBNF rule", "choices that are too long"),
)
"""Names of a few of them, which take little time."""

LATER = 'start: /[a-z]{9}/ " " ("b"~1000)~1000\n'
"""A grammar that cannot be followed behind nine letters."""
