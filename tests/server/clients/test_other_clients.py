"""Other clients of OpenAI's interface: only the address is changed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from outrider.engine.generator import Generator
from tests.server.setups import HELLO, Running

# The warnings are of the clients themselves, when they are imported.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")


@pytest.fixture(scope="module")
def expected(generator: Generator) -> str:
    return generator.generate(HELLO, max_new_tokens=8, seed=1, temperature=0.0).text


def test_litellm(served: Running, expected: str) -> None:
    litellm = pytest.importorskip("litellm")
    settings = {
        "model": "openai/tiny",
        "api_base": served.url,
        "api_key": "none",
        "messages": HELLO,
        "max_tokens": 8,
        "temperature": 0.0,
        "seed": 1,
    }
    whole = litellm.completion(**settings)
    assert whole.choices[0].message.content == expected
    assert whole.usage.completion_tokens == 8
    chunks = litellm.completion(**settings, stream=True)
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == expected


def test_langchain(served: Running, expected: str) -> None:
    langchain = pytest.importorskip("langchain_openai")
    chat = langchain.ChatOpenAI(
        model="tiny", base_url=served.url, api_key="none", max_tokens=8, temperature=0.0, seed=1
    )
    assert chat.invoke("Hello").content == expected
    assert "".join(piece.content for piece in chat.stream("Hello")) == expected
    twice = chat.batch(["Hello", "Hello"])
    assert [answer.content for answer in twice] == [expected, expected]


def test_llm_tool(served: Running, expected: str, tmp_path: Path) -> None:
    pytest.importorskip("llm")
    (tmp_path / "extra-openai-models.yaml").write_text(
        f"- model_id: tiny\n  model_name: tiny\n  api_base: {served.url}\n", encoding="utf-8"
    )
    options = ["-o", "max_tokens", "8", "-o", "temperature", "0", "-o", "seed", "1"]
    for more in ([], ["--no-stream"]):
        done = subprocess.run(
            [sys.executable, "-m", "llm", "-m", "tiny", "--key", "none", *options, *more, "Hello"],
            env={**os.environ, "LLM_USER_PATH": str(tmp_path), "LLM_LOAD_PLUGINS": ""},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.removesuffix("\n") == expected
