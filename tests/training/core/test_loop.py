from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from outrider.core.errors import OptionError
from outrider.training.core import loop
from outrider.training.core.config import load_config
from outrider.training.core.loop import StopSignal, TrainingStopped
from outrider.training.core.state import only_run, read_json
from outrider.training.core.workspace import Workspace, prepare_corpus, prepare_tokenizer
from outrider.training.family.family import train_family
from outrider.training.family.target import train_target

MakeConfig = Callable[..., Path]


def stop_after(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the stop signal come during the given step of each stage."""
    plain = loop._Loop._one_step
    taken = 0

    def counted(self: loop._Loop) -> None:
        nonlocal taken
        plain(self)
        taken += 1
        if taken == steps:
            self.given.stop.asked = True

    monkeypatch.setattr(loop._Loop, "_one_step", counted)


@pytest.mark.usefixtures("unchecked")
def test_a_run_stopped_thrice_ends_with_the_same_bits(
    make_config: MakeConfig, data: Path, tmp_path: Path, finished: Path
) -> None:
    path, out = make_config(), tmp_path / "out"
    for steps in (2, 5, 3):
        with pytest.MonkeyPatch.context() as patch:
            stop_after(steps, patch)
            with pytest.raises(TrainingStopped):
                train_family(path, out=out, data=data)
    assert "distill" not in read_json(out / "state.json")
    train_family(path, out=out, data=data)
    for tier in ("target", "qualifier", "draft"):
        one = load_file(finished / "family" / tier / "model.safetensors")
        two = load_file(out / "family" / tier / "model.safetensors")
        assert one.keys() == two.keys()
        assert all(torch.equal(one[key], two[key]) for key in one)


def test_completed_stages_are_skipped(
    make_config: MakeConfig, data: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train_family(make_config(), out=finished, data=data)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(read_json(finished / "state.json")) == 9
    assert all(line.endswith("done before") for line in lines)


def test_a_minute_cap_ends_a_stage(make_config: MakeConfig, data: Path, tmp_path: Path) -> None:
    path = make_config(("tokens = 1536\n", "tokens = 1_000_000_000\nmax_minutes = 0.004\n"))
    work = Workspace(config=load_config(path), folder=tmp_path, data=data, stop=StopSignal())
    prepare_tokenizer(work)
    prepare_corpus(work)
    result = train_target(work, "target", work.config.target)
    assert 0 < result["tokens"] < 1_000_000
    assert result["seconds"] >= 0.24


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    with (
        only_run(tmp_path),
        pytest.raises(OptionError, match="another run is active"),
        only_run(tmp_path),
    ):
        pass


def test_no_data_directory(make_config: MakeConfig, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="--data DIR"):
        train_family(make_config(), out=tmp_path / "out", data=tmp_path / "none")
