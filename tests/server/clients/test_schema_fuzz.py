"""Bodies that no client should send: none is answered with 5xx, and every error has the same shape.

The slow test needs schemathesis: pip install "schemathesis==4.32.*"
"""

import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from outrider.engine.generator import Generator
from outrider.engine.serving.settings import ServingSettings
from outrider.server.settings import ServerSettings
from tests.server.setups import CHAT, COMPLETE, Running, running

RESPOND = "/v1/responses"
HELLO = '"messages":[{"role":"user","content":"Hello"}]'
BODIES = {
    CHAT: f'"model":"tiny","max_tokens":1,{HELLO}',
    f"{CHAT}/render": f'"model":"tiny",{HELLO}',
    COMPLETE: '"model":"tiny","max_tokens":1,"prompt":"Hello"',
    RESPOND: '"model":"tiny","max_output_tokens":1,"input":"Hello"',
    "/v1/messages": f'"model":"tiny","max_tokens":1,{HELLO}',
    "/v1/messages/count_tokens": f'"model":"tiny",{HELLO}',
    "/tokenize": HELLO,
    "/detokenize": '"tokens":[1]',
}
"""A body of each endpoint, without its braces."""


def nested(depth: int) -> str:
    return '{"a":' * depth + "1" + "}" * depth


HALF = r'"\ud800"'
HUGE = "9" * 400
FIELDS = [
    *(f'"metadata":{nested(depth)}' for depth in (200, 230, 250, 900)),
    f'"metadata":{{"a":{HUGE}}}',
    f'"metadata":{{{HALF}:1}}',
    f'"user":{HALF}',
    f'"user":{HALF},"stream":true',
    f'"prediction":{{"content":{HALF}}}',
    f'"reasoning":{{"effort":{HALF}}}',
    f"{HALF}:1",
    f'"seed":{HUGE}',
    '"temperature":1e999',
    '"max_tokens":1e300',
    '"top_k":2147483647,"temperature":1e-320,"top_p":1e-320',
]


@pytest.mark.parametrize("path", BODIES)
def test_hostile_values_are_answered_or_refused(served: Running, path: str) -> None:
    for field in FIELDS:
        answer = served.post(path, f"{{{BODIES[path]},{field}}}".encode())
        assert answer.status in (200, 400), (field, answer.body)
        assert answer.status == 200 or answer.json["error"]["type"] == "invalid_request_error"
        assert b'"error":{' not in answer.body or answer.status == 400, field
    broken = served.post(path, f'{{{BODIES[path]},"user":"'.encode() + b'\xc3\x28"}')
    assert broken.status == 400 and "UTF-8" in broken.json["error"]["message"]


def test_what_an_answer_cannot_hold_is_refused(served: Running) -> None:
    for field, name in ((f'"metadata":{nested(250)}', "metadata"), (f'"user":{HALF}', "user")):
        answer = served.post(RESPOND, f"{{{BODIES[RESPOND]},{field}}}".encode())
        assert answer.status == 400 and answer.error["param"] == name
    deep = served.post(RESPOND, f'{{{BODIES[RESPOND]},"metadata":{nested(200)}}}'.encode())
    assert deep.status == 200 and deep.body.count(b'{"a":') == 200


def test_values_have_the_types_of_the_description(served: Running) -> None:
    for field in ('"n":true', '"n":"1"', '"temperature":"0.5"', '"store":0', '"stream":"yes"'):
        answer = served.post(CHAT, f"{{{BODIES[CHAT]},{field}}}".encode())
        assert answer.status == 400 and f'"{answer.error["param"]}":' in field
    assert served.post("/detokenize", {"tokens": [False]}).status == 400
    assert served.post(CHAT, f'{{{BODIES[CHAT]},"n":1.0,"seed":7.0}}'.encode()).status == 200


@pytest.fixture(scope="module")
def small(generator: Generator) -> Iterator[Running]:
    """A server whose answers are short, because its caches are small."""
    settings = ServerSettings(model_names=("tiny",), max_n=2)
    with running(generator, settings, engine_settings=ServingSettings(cache_tokens=256)) as found:
        yield found


@pytest.mark.slow
def test_schemathesis(small: Running, tmp_path: Path) -> None:
    """Requests made from `/openapi.json`, correct and wrong ones.

    That every correct request is accepted is not checked: a description cannot express that a text
    fits the window, or that one field excludes another.
    """
    if find_spec("schemathesis") is None:
        pytest.skip('install it with: pip install "schemathesis==4.32.*"')
    address = f"http://127.0.0.1:{small.port}"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "run", f"{address}/openapi.json"),
            *("--phases", "coverage,fuzzing", "--max-examples", "20", "--seed", "1"),
            *("--suppress-health-check", "all"),  # some of them depend on the speed
            *("--exclude-checks", "positive_data_acceptance", "--continue-on-failure"),
            *("--request-timeout", "60", "--output-sanitize", "false", "--no-color"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2000:]
    paths = small.get("/openapi.json").json["paths"]
    assert f"Tested: {sum(map(len, paths.values()))}\n" in done.stdout
    assert small.idle()
