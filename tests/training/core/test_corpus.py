import sys
from pathlib import Path

import numpy as np
import pytest

from outrider.core.errors import MissingExtraError, OptionError
from outrider.training.core.config import Source
from outrider.training.core.corpus import Windows, documents, read_records


def test_compressed_records(tmp_path: Path) -> None:
    zstandard = pytest.importorskip("zstandard")
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(zstandard.ZstdCompressor().compress(b'{"text": "x"}\n\n{"text": "y"}\n'))
    assert [record["text"] for record in read_records(path)] == ["x", "y"]


def test_compressed_records_without_zstandard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "zstandard", None)
    (tmp_path / "a.jsonl.zst").write_bytes(b"")
    with pytest.raises(MissingExtraError, match=r"outrider\[train\]"):
        list(read_records(tmp_path / "a.jsonl.zst"))


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="--data"):
        list(read_records(tmp_path / "a.jsonl"))


def test_an_unknown_format(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="Did you mean 'dialogue'"):
        documents(Source(name="x", file="x.jsonl", format="dialog"), tmp_path, 0)


def test_windows_cover_their_part_once_and_wrap() -> None:
    windows = Windows(np.arange(100, dtype=np.uint16), 10, (0.2, 0.9), seed=3)
    rows = windows.rows(0, 7)
    assert sorted(rows[:, 0].tolist()) == [20, 30, 40, 50, 60, 70, 80]
    assert (windows.rows(7, 2) == rows[:2]).all()
    with pytest.raises(OptionError, match="too few for a window"):
        Windows(np.arange(5), 10, (0.0, 1.0), seed=0)
