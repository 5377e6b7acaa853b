"""Every rival writes what was asked for; those that are not installed are named, not imported."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from outrider.bench.rivals import rivals
from outrider.bench.rivals.llamacpp import LlamaCpp
from outrider.bench.rivals.rival import OpenRival, Rival, RivalRequest
from outrider.models.checkpoints.opening import open_checkpoint
from outrider.models.llama.decoder import Decoder
from outrider.models.sources.families import families_folder
from tests.models.setups.reference import begin, next_logits

TINY = families_folder() / "tiny"
TARGET, DRAFT = TINY / "qualifier", TINY / "draft"
LENGTH = 24
PROMPT = (1826, 816, 262, 554, 15, 465, 326, 262, 545, 870) * 2


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One folder of converted checkpoints for all tests."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OUTRIDER_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="module", params=list(rivals()))
def opened(request: pytest.FixtureRequest, cache: Path) -> Iterator[tuple[Rival, OpenRival]]:
    rival = rivals()[request.param]
    if (line := rival.available()) is not None:
        pytest.skip(f"{rival.name} needs: {line}")
    with rival.open(TARGET, DRAFT, threads=1, dtype="float32") as one:
        yield rival, one


@pytest.fixture(scope="module")
def ours() -> tuple[int, ...]:
    """Greedy text in float32, end tokens ignored."""
    model = Decoder.load(TARGET)
    cache = begin(model, PROMPT)
    text: list[int] = []
    for _ in range(LENGTH):
        text.append(int(next_logits(model, cache).argmax()))
        cache.commit([text[-1]])
    return tuple(text)


def write(
    rival: OpenRival, temperature: float = 0.0, *, seed: int = 1, ignore_eos: bool = True
) -> tuple[int, ...]:
    request = RivalRequest(
        token_ids=PROMPT,
        max_new_tokens=LENGTH,
        temperature=temperature,
        top_p=0.95,
        seed=seed,
        ignore_eos=ignore_eos,
    )
    written = rival.generate(request)
    assert 0 < written.ttft_seconds <= written.seconds
    return written.token_ids


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_it_writes_what_it_is_asked_for(
    opened: tuple[Rival, OpenRival], ours: tuple[int, ...]
) -> None:
    rival, one = opened
    assert isinstance(rival, Rival) and isinstance(one, OpenRival)
    text = write(one)
    assert len(text) == LENGTH and write(one) == text
    if rival.precision == "float32":
        assert text == ours
    else:
        assert text[:3] == ours[:3]  # rounded weights: the texts part sooner or later
    sampled = {seed: write(one, 0.8, seed=seed) for seed in (1, 2, 3)}
    assert all(len(text) == LENGTH for text in sampled.values())
    assert len(set(sampled.values())) == 3 and write(one, 0.8, seed=2) == sampled[2]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_it_stops_at_the_end_tokens_of_the_checkpoint(
    opened: tuple[Rival, OpenRival],
) -> None:
    """A token of its own text is made one: the text ends there, and only then."""
    _, one = opened
    text = write(one)
    end = text[LENGTH // 2]
    changed: Any = replace(cast("Any", one), ends=(4095, end))
    stopped = write(changed, ignore_eos=False)
    first = text.index(end)
    assert stopped in (text[:first], text[: first + 1])
    assert write(changed) == text


@pytest.mark.parametrize("method", ["draft", "lookup"])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_llama_cpp_drafts_change_no_text(method: str, temperature: float, cache: Path) -> None:
    """In float32, where llama.cpp's rows agree closely enough; samplers draw once a token."""
    plain, drafted = (
        LlamaCpp(name="a", precision="float32", method=way, kind="f32") for way in ("plain", method)
    )
    if (line := plain.available()) is not None:
        pytest.skip(line)
    with (
        plain.open(TARGET, None, threads=1, dtype="float32") as one,
        drafted.open(TARGET, DRAFT, threads=1, dtype="float32") as other,
    ):
        assert write(one, temperature) == write(other, temperature)


def test_converted_checkpoints_are_kept(cache: Path) -> None:
    rival = rivals()["llama.cpp-q8_0"]
    if (line := rival.available()) is not None:
        pytest.skip(line)
    with rival.open(TARGET, None, threads=1, dtype="int8"):
        pass
    file = cache / "rivals" / f"{open_checkpoint(TARGET).fingerprint}-gguf-q8_0" / "model.gguf"
    written = file.stat().st_mtime_ns
    with rival.open(TARGET, None, threads=1, dtype="int8"):
        pass
    assert file.stat().st_mtime_ns == written
    assert not list((cache / "rivals").glob(".*"))


def test_forwards_of_llama_cpp_are_timed(cache: Path) -> None:
    pytest.importorskip("llama_cpp", reason="needs llama-cpp-python")
    pytest.importorskip("gguf", reason="needs gguf")
    from outrider.bench.rivals.conversion import gguf_file
    from outrider.bench.rivals.llamacpp_session import llama_cpp_forward_ms

    file = gguf_file(DRAFT, "q8_0")
    spent = llama_cpp_forward_ms(file, (1, 64), context=50, repeats=3)
    assert list(spent) == [1, 64] and 0 < spent[1] < spent[64]


def test_names_and_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    known = rivals()
    assert len({rival.name for rival in known.values()}) == len(known)
    assert all(name == rival.name for name, rival in known.items())
    assert {rival.method for rival in known.values()} == {"plain", "draft", "lookup"}
    monkeypatch.setattr("outrider.bench.rivals.conversion.find_spec", lambda name: None)
    assert known["transformers"].available() is None
    assert known["llama.cpp-q8_0"].available() == "pip install llama-cpp-python gguf"
    assert known["openvino-int8"].available() == "pip install openvino-genai gguf"


@pytest.mark.slow
def test_nothing_is_imported_early() -> None:
    code = (
        "import sys; from outrider.bench.rivals import rivals; "
        "[rival.available() for rival in rivals().values()]; "
        "print({'llama_cpp', 'gguf', 'openvino', 'openvino_genai'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
