"""nginx in front of two servers: streams, the choice of a server, and what replaces a full one."""

import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import pytest
from scripts.try_dockerfile import free_port

from tests.deploy.processes import program, serving

pytestmark = pytest.mark.slow

CONFIG = Path(__file__).parents[2] / "deploy/nginx.conf"
LONG: dict[str, Any] = {"max_tokens": 1900, "ignore_eos": True, "stream": True, "seed": 1}
MAIN = """
daemon off;
pid {folder}/pid;
error_log {folder}/error.log;
events {{}}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  include {folder}/outrider.conf;
}}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Places of nginx and of the servers behind it."""

    front: str
    servers: tuple[str, str]


def main_text(folder: Path) -> str:
    """The rest of the configuration. What root starts would become another user's."""
    user = "user root;" if os.geteuid() == 0 else ""
    return user + MAIN.format(folder=folder)


@contextmanager
def nginx(folder: Path, servers: tuple[str, str]) -> Iterator[str]:
    """Context manager: the configuration that ships, with other ports; give its place."""
    if (found := shutil.which("nginx")) is None:
        pytest.skip("needs nginx (apt install nginx)")
    front = f"127.0.0.1:{free_port()}"
    text = CONFIG.read_text(encoding="utf-8")
    places = {"127.0.0.1:8000": front, "127.0.0.1:8001": servers[0], "127.0.0.1:8002": servers[1]}
    for usual, place in places.items():
        assert text.count(usual) == 1
        text = text.replace(usual, place)
    (folder / "outrider.conf").write_text(text, encoding="utf-8")
    (folder / "nginx.conf").write_text(main_text(folder), encoding="utf-8")
    command = [found, "-p", folder, "-e", folder / "error.log", "-c", folder / "nginx.conf"]
    with program(command, f"http://{front}/", folder / "log"):
        yield front


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    if shutil.which("nginx") is None:
        pytest.skip("needs nginx (apt install nginx)")
    options = ("--target", "tiny", "--max-num-seqs", "1", "--max-queue", "0")
    with ExitStack() as stack:
        first, second = (urlsplit(stack.enter_context(serving(*options))).netloc for _ in "ab")
        folder = tmp_path_factory.mktemp("nginx")
        front = stack.enter_context(nginx(folder, (first, second)))
        yield Site(front=front, servers=(first, second))


def send(place: str, key: str = "", **more: Any) -> Any:
    """Send a chat request; the answer has not been read. Errors are answers too."""
    messages = [{"role": "user", "content": "Tell me a story about a king and his three sons."}]
    body = {"model": "tiny", "messages": messages, "temperature": 0.8, "seed": 1} | more
    headers = {"content-type": "application/json"} | ({"x-prompt-cache-key": key} if key else {})
    url = f"http://{place}/v1/chat/completions"
    try:
        return urlopen(Request(url, json.dumps(body).encode(), headers), timeout=120)
    except HTTPError as error:
        return error


def read(answer: Any) -> Any:
    """Return the object of an answer."""
    with answer:
        return json.load(answer)


def load(server: str) -> int:
    """Return how many samples a server has in work."""
    return read(urlopen(f"http://{server}/load", timeout=60))["server_load"]


def answered(server: str) -> int:
    """Return how many samples of a server have ended."""
    with urlopen(f"http://{server}/metrics", timeout=60) as answer:
        lines = answer.read().decode().splitlines()
    found = (line for line in lines if line.startswith("outrider:request_success_total{"))
    return int(sum(float(line.rpartition(" ")[2]) for line in found))


def idle(site: Site) -> None:
    """Wait until no server has work."""
    deadline = time.monotonic() + 30
    while any(map(load, site.servers)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def of_both(site: Site) -> tuple[str, str]:
    """Return two keys that lead to different servers."""
    found: dict[int, str] = {}
    for number in range(40):
        key = f"conversation {number}"
        before = answered(site.servers[0])
        read(send(site.front, key, max_tokens=1))
        found.setdefault(answered(site.servers[0]) - before, key)
        if len(found) == 2:
            return found[1], found[0]
    raise AssertionError("all keys lead to one server")


def test_a_stream_is_passed_on_as_it_is_written(site: Site) -> None:
    begun = time.monotonic()
    answer = send(site.front, "a", **LONG | {"max_tokens": 600})
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    answer.readline()
    first = time.monotonic() - begun
    with answer:
        text = answer.read().decode()
    whole = time.monotonic() - begun
    assert text.endswith("data: [DONE]\n\n")
    assert first < whole / 3


def test_a_conversation_stays_at_one_server_and_others_are_spread(site: Site) -> None:
    mine, other = of_both(site)
    counts = [answered(server) for server in site.servers]
    answers = [read(send(site.front, mine, max_tokens=2)) for _ in range(5)]
    assert [answered(server) for server in site.servers] == [counts[0] + 5, counts[1]]
    assert answers[-1]["usage"]["prompt_tokens_details"]["cached_tokens"] > 0
    read(send(site.front, other, max_tokens=2))
    assert answered(site.servers[1]) == counts[1] + 1


def test_both_servers_write_the_same_text(site: Site) -> None:
    texts = []
    for key in of_both(site):
        found = read(send(site.front, key, max_tokens=40))
        texts.append(found["choices"][0]["message"]["content"])
    assert texts[0] == texts[1] != ""


def test_another_server_replaces_a_full_one_and_two_full_ones_refuse(site: Site) -> None:
    mine, other = of_both(site)
    idle(site)
    first = send(site.front, mine, **LONG)
    first.readline()
    replaced = send(site.front, mine, max_tokens=2)
    assert replaced.status == 200 and read(replaced)["choices"]
    second = send(site.front, other, **LONG)
    second.readline()
    refused = send(site.front, mine, max_tokens=2)
    assert refused.status == 429
    assert int(refused.headers["retry-after"]) >= 1
    assert read(refused)["error"]["code"] == "queue_full"
    for answer in (first, second):
        answer.close()
    idle(site)


def test_a_client_that_leaves_nginx_ends_the_work_behind_it(site: Site) -> None:
    idle(site)
    answer = send(site.front, "a", **LONG)
    answer.readline()
    assert sum(map(load, site.servers)) == 1
    answer.close()
    idle(site)


def test_large_bodies_pass(site: Site) -> None:
    answer = send(site.front, "a", metadata={"filling": "x" * 15_000_000}, max_tokens=1)
    assert answer.status == 200
    assert read(answer)["choices"]


def test_a_server_may_stop_under_load_and_then_the_other(tmp_path: Path) -> None:
    """No request fails while one server drains and ends; when both are gone, the error is JSON."""
    statuses: list[int] = []
    stopped = threading.Event()

    def ask() -> None:
        for number in range(12):
            answer = send(front, f"conversation {number}", max_tokens=20)
            statuses.append(answer.status)
            read(answer)
        stopped.wait(60)
        for number in range(12):
            answer = send(front, f"conversation {number}", max_tokens=2)
            statuses.append(answer.status)
            read(answer)

    with ExitStack() as both:
        first = urlsplit(both.enter_context(serving("--target", "tiny"))).netloc
        with ExitStack() as second:
            place = urlsplit(second.enter_context(serving("--target", "tiny"))).netloc
            front = both.enter_context(nginx(tmp_path, (first, place)))
            asking = threading.Thread(target=ask)
            asking.start()
            time.sleep(0.1)
        stopped.set()
        asking.join(60)
    assert statuses == [200] * 24


def test_an_error_without_servers_has_the_usual_shape(tmp_path: Path) -> None:
    nowhere = (f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}")
    with nginx(tmp_path, nowhere) as front:
        answer = send(front)
        assert answer.status == 503
        assert answer.headers["retry-after"] == "5"
        error = read(answer)["error"]
        assert set(error) == {"message", "type", "param", "code"}
