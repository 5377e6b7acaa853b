"""Images at other hosts: which hosts and addresses are asked, and which answers are refused."""

import asyncio
import base64
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from shutil import which
from typing import Any

import pytest

from outrider.core.errors import OptionError
from outrider.engine.generator import Generator
from outrider.engine.serving.settings import ServingSettings
from outrider.server.errors import ApiError
from outrider.server.media import replacing
from outrider.server.media.addresses import Place, is_named, is_public, read_host
from outrider.server.media.fetching import Budget, Fetcher
from outrider.server.media.replacing import fetch_images
from outrider.server.schema.chat import ChatBody
from outrider.server.settings import ServerSettings
from tests.server.parts.test_images import asked, picture
from tests.server.setups import CHAT, Running, running

PICTURE = picture()


class Host(ThreadingHTTPServer):
    """A host with images; it notes what it was asked."""

    daemon_threads = True
    seen: list[str]


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, Host)
        self.server.seen.append(f"{self.headers['host']}{self.path}")
        name = self.path.partition("?")[0]
        if name == "/slow":
            time.sleep(1.0)
        if name == "/endless":  # a header that never ends
            with suppress(OSError):
                self.wfile.write(b"HTTP/1.1 200 OK\r\nx-long: ")
                for _ in range(1000):
                    self.wfile.write(b"a" * 10_000)
            return
        if name == "/moved":
            self.send_response(302)
            self.send_header("location", "/a.png")
        else:
            self.send_response(404 if name == "/none" else 200)
        if name == "/long":
            self.send_header("x-long", "a" * 300_000)
        if name == "/gzip":
            self.send_header("content-encoding", "gzip")
        length = {"/cut": 10_000, "/huge": 10**12}.get(name, len(PICTURE))
        if name != "/open":
            self.send_header("content-length", str(length))
        self.end_headers()
        with suppress(OSError):  # the server has seen enough
            self.wfile.write(PICTURE if name != "/huge" else b"\0" * 100_000)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def listening(tls: ssl.SSLContext | None = None) -> Iterator[Host]:
    host = Host(("127.0.0.1", 0), Handler)
    host.seen = []
    if tls is not None:
        host.socket = tls.wrap_socket(host.socket, server_side=True)
    thread = threading.Thread(target=host.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield host
    finally:
        host.shutdown()
        host.server_close()
        thread.join()


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with listening() as found:
        yield found


async def here(name: str, port: int) -> Sequence[str]:
    return ["127.0.0.1"]


def fetcher(host: Host, **more: Any) -> Fetcher:
    """A fetcher for a host of this machine, which is not public."""
    given: dict[str, Any] = {"resolve": here, "allowed": lambda address: True, **more}
    return Fetcher(hosts=(f"images.test:{host.server_port}",), **given)


def get(one: Fetcher, host: Host, path: str, name: str = "images.test", **more: Any) -> bytes:
    url = f"http://{name}:{host.server_port}{path}"
    return asyncio.run(one.fetch(url, Budget(left=one.most_bytes), "here"))


@pytest.mark.parametrize(
    ("address", "public"),
    [
        *((one, True) for one in ("93.184.216.34", "2606:2800:220:1::1", "::ffff:8.8.8.8")),
        *((one, False) for one in ("127.0.0.1", "10.0.0.1", "192.168.1.1", "172.16.0.1")),
        *((one, False) for one in ("169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1")),
        *((one, False) for one in ("255.255.255.255", "240.0.0.1", "::", "::1", "fe80::1%eth0")),
        *((one, False) for one in ("fc00::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "ff02::1")),
        *((one, False) for one in ("2002:7f00:1::", "2001:db8::1", "localhost", "")),
    ],
)
def test_public_addresses(address: str, public: bool) -> None:
    assert is_public(address) is public


def test_hosts_are_named_exactly() -> None:
    given = ("Images.Example.org", "a.test:8080", "bücher.test", "[2001:DB8::1]:8080")
    hosts = tuple(map(read_host, given))
    assert hosts[:3] == ("images.example.org", "a.test:8080", "xn--bcher-kva.test")
    for url, named in (
        ("https://images.example.org/a.png", True),
        ("HTTP://IMAGES.EXAMPLE.ORG./a.png?b=c#d", True),
        ("http://images.example.org:8080/a.png", False),
        ("http://a.test:8080/", True),
        ("http://a.test/", False),
        ("http://[2001:db8::1]:8080/", True),
        ("http://[2001:db8::1:8080]/", False),
        ("https://evil.images.example.org/", False),
        ("https://images.example.org.evil.test/", False),
    ):
        assert is_named(Place.of(url), hosts) is named, url
    for wrong in ("", "http://a.test", "a.test/b", "*.test", "a b", "a.test:x", "u@a.test"):
        with pytest.raises(OptionError, match="media host"):
            ServerSettings(media_hosts=(wrong,))


@pytest.mark.parametrize(
    "url",
    [
        *("http://u:p@images.test/", "http:///a.png", "http://images.test:99999/", "http://[::1/"),
        *("http://images.test/ä", "http://images.test/a b", "http://images.test/\r\nx: y", "http:"),
    ],
)
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(ApiError, match="cannot be fetched") as raised:
        asyncio.run(Fetcher(hosts=("images.test",)).fetch(url, Budget(left=1), "here"))
    assert raised.value.status == 400 and "\n" not in raised.value.message


def test_an_image_is_fetched(host: Host) -> None:
    assert get(fetcher(host), host, "/a.png?b=c") == PICTURE
    assert host.seen[-1] == f"images.test:{host.server_port}/a.png?b=c"
    assert get(fetcher(host), host, "/open") == PICTURE


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/moved", "redirect .302., which is not followed"),
        ("/none", "answers 404"),
        ("/gzip", "compressed"),
        ("/cut", "too early"),
        ("/huge", "too many bytes"),
        ("/long", "around its content|not answer in HTTP"),
        ("/endless", "around its content"),
    ],
)
def test_other_answers_are_refused(host: Host, path: str, reason: str) -> None:
    with pytest.raises(ApiError, match=reason):
        get(fetcher(host, most_bytes=50_000), host, path)


def test_an_address_that_is_not_public_is_never_asked(host: Host) -> None:
    before = len(host.seen)
    with pytest.raises(ApiError, match="not at a public address"):
        get(Fetcher(hosts=(f"images.test:{host.server_port}",), resolve=here), host, "/a.png")

    async def two(name: str, port: int) -> Sequence[str]:
        return ["93.184.216.34", "127.0.0.1"]

    with pytest.raises(ApiError, match="not at a public address"):
        get(fetcher(host, resolve=two, allowed=is_public), host, "/a.png")
    with pytest.raises(ApiError, match="not among"):
        get(fetcher(host), host, "/a.png", "other.test")
    assert len(host.seen) == before


def test_a_second_answer_of_the_name_server_has_no_effect(host: Host) -> None:
    """The address that was checked is the one that is asked, and it is checked once more."""
    answers = iter([["127.0.0.2"], ["127.0.0.1"]])

    async def rebinding(name: str, port: int) -> Sequence[str]:
        return next(answers)

    checked: list[str] = []

    def allowed(address: str) -> bool:
        checked.append(address)
        return address == "127.0.0.2"

    with pytest.raises(ApiError, match="cannot be reached"):  # the host listens elsewhere
        get(fetcher(host, resolve=rebinding, allowed=allowed), host, "/a.png")
    assert checked == ["127.0.0.2"] and next(answers) == ["127.0.0.1"]


def test_limits_are_those_of_the_request(host: Host) -> None:
    def asking(*paths: str) -> ChatBody:
        urls = [f"http://images.test:{host.server_port}{path}" for path in paths]
        messages = [message for url in urls for message in asked({"url": url})]
        return ChatBody.model_validate({"model": "m", "messages": messages})

    def fill(one: Fetcher, *paths: str) -> ChatBody:
        body = asking(*paths)
        asyncio.run(fetch_images(body, one))
        return body

    content: Any = fill(fetcher(host), "/a.png").messages[0].content
    assert content[0].image_url.url == "data:;base64," + base64.b64encode(PICTURE).decode()
    enough = 2 * len(PICTURE)
    fill(fetcher(host, most_bytes=enough), "/1", "/2")
    with pytest.raises(ApiError, match="too many bytes") as raised:
        fill(fetcher(host, most_bytes=enough), "/1", "/2", "/3")
    assert str(raised.value.param).startswith("messages.")
    with pytest.raises(ApiError, match="Give at most 2"):
        fill(fetcher(host, most_files=2), "/1", "/2", "/3")
    busy = fetcher(host, gate=asyncio.Semaphore(0))  # other requests fetch as many as may be
    with pytest.raises(TimeoutError):
        asyncio.run(asyncio.wait_for(fetch_images(asking("/a.png"), busy), 0.05))
    with pytest.raises(ApiError, match=r"more than 0\.1 s"):
        fill(fetcher(host, seconds=0.1), "/slow")


def test_large_images_are_encoded_in_a_thread(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """The event loop goes on; the data are the same."""
    real, threads = replacing.base64.b64encode, list[bool]()

    def encode(data: bytes) -> bytes:
        threads.append(threading.current_thread() is threading.main_thread())
        return real(data)

    monkeypatch.setattr(replacing.base64, "b64encode", encode)
    found = set[str]()
    for limit in (len(PICTURE), len(PICTURE) - 1):
        monkeypatch.setattr(replacing, "_LARGE", limit)
        url = {"url": f"http://images.test:{host.server_port}/a.png"}
        body = ChatBody.model_validate({"model": "m", "messages": asked(url)})
        asyncio.run(fetch_images(body, fetcher(host)))
        content: Any = body.messages[0].content
        found.add(content[0].image_url.url)
    assert threads == [True, False]
    assert found == {"data:;base64," + real(PICTURE).decode()}


@pytest.fixture(scope="module")
def open_to(generator: Generator, host: Host) -> Iterator[Running]:
    settings = ServerSettings(
        model_names=("tiny",), media_hosts=(f"images.test:{host.server_port}",)
    )
    small = ServingSettings(cache_tokens=256)
    with running(generator, settings, engine_settings=small) as found:
        assert found.context.media is not None
        found.context.media.resolve = here
        found.context.media.allowed = lambda address: True
        yield found


def test_each_interface_fetches(open_to: Running, served: Running, host: Host) -> None:
    """The model reads no images, and says so after they were fetched."""
    url = f"http://images.test:{host.server_port}/a.png"
    blocks = [{"type": "image", "source": {"type": "url", "url": url}}]
    parts = [{"type": "input_image", "image_url": url}]
    messages = {"messages": [{"role": "user", "content": blocks}], "max_tokens": 4}
    for path, body in (
        (CHAT, {"messages": asked({"url": url})}),
        (CHAT, {"messages": asked(url)}),
        ("/v1/responses", {"input": [{"role": "user", "content": parts}]}),
        ("/v1/messages", messages),
    ):
        before = len(host.seen)
        answer = open_to.post(path, {"model": "tiny", **body})
        assert answer.status == 400 and "does not read images" in answer.json["error"]["message"]
        assert len(host.seen) == before + 1
        answer = served.post(path, {"model": "tiny", **body})
        assert answer.status == 400 and "is not fetched" in answer.json["error"]["message"]
        assert len(host.seen) == before + 1


def test_a_count_fetches_nothing(open_to: Running, host: Host) -> None:
    """The tokens of images are not counted, so that no host is asked for them."""
    source = {"type": "url", "url": f"http://images.test:{host.server_port}/a.png"}
    block = {"type": "image", "source": source}
    returned = {"type": "tool_result", "tool_use_id": "a", "content": [block]}
    for content in ([block], [returned]):
        before = len(host.seen)
        body = {"model": "tiny", "messages": [{"role": "user", "content": content}]}
        answer = open_to.post("/v1/messages/count_tokens", body)
        assert answer.status == 400
        assert "the tokens of images are known when" in answer.json["error"]["message"]
        assert len(host.seen) == before


@pytest.mark.slow
@pytest.mark.skipif(which("openssl") is None, reason="openssl makes the certificate")
def test_certificates_are_checked_for_the_name(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-keyout", str(key), "-out", str(certificate), "-subj", "/CN=images.test"),
            *("-addext", "subjectAltName=DNS:images.test"),
        ],
        check=True,
        capture_output=True,
    )
    own = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    own.load_cert_chain(certificate, key)
    known = ssl.create_default_context(cafile=str(certificate))
    with listening(own) as host:
        hosts = tuple(f"{name}.test:{host.server_port}" for name in ("images", "other"))
        one = Fetcher(hosts=hosts, resolve=here, allowed=lambda address: True, tls=known)
        place = f"https://images.test:{host.server_port}/a.png"
        assert asyncio.run(one.fetch(place, Budget(left=10**6), "here")) == PICTURE
        for wrong in (place.replace("images", "other"), place):
            with pytest.raises(ApiError, match="TLS"):
                asyncio.run(one.fetch(wrong, Budget(left=10**6), "here"))
            one.tls = ssl.create_default_context()  # which does not know the certificate
