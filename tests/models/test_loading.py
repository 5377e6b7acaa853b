"""From what a user names to a model that runs."""

import warnings
from pathlib import Path

import pytest
import torch

from outrider import kernels
from outrider.core.errors import CheckpointError, OptionError
from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.models.cpu.native import NativeDecoder
from outrider.models.devices import resolve_device, resolve_dtype
from outrider.models.llama.decoder import Decoder
from outrider.models.loading import FallbackWarning, load_model, tokenizer_for
from outrider.models.quality import Quality
from outrider.models.sources.families import families_folder, family
from outrider.models.sources.finding import local_folder
from outrider.models.tabular import TabularModel
from outrider.models.transformers.model import TransformersModel
from tests.models.setups.built import RUNS, build
from tests.models.setups.make_checkpoints import make_checkpoint
from tests.models.setups.reference import edited

CPU = torch.device("cpu")


OURS = NativeDecoder if kernels.available() else Decoder

needs_kernels = pytest.mark.skipif(not kernels.available(), reason=kernels.reason_missing())


def test_supported_folders_run_in_the_decoder_without_a_word(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path / "tiny", "qwen2")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = load_model(path, name="target")
    assert isinstance(model, OURS) and model.info.name == "target"
    assert load_model(str(path)).info.name == "tiny"


def test_others_fall_back_with_one_line_that_says_why(tmp_path: Path) -> None:
    build(*RUNS["gpt2"]).save_pretrained(tmp_path)
    with pytest.warns(FallbackWarning) as caught:
        model = load_model(tmp_path, name="draft", dtype="bfloat16")
    assert isinstance(model, TransformersModel)
    assert (model.info.name, model.dtype) == ("draft", torch.bfloat16)
    [warning] = caught
    line = str(warning.message)
    assert line.startswith("draft runs through transformers") and "'gpt2'" in line
    assert "\n" not in line


def test_built_models_are_wrapped_and_ours_returned() -> None:
    model = build(*RUNS["opt"])
    wrapped = load_model(model, name="draft")
    assert isinstance(wrapped, TransformersModel)
    assert wrapped.model is model and wrapped.info.name == "draft"
    ours = TabularModel.random()
    assert load_model(ours) is ours


@pytest.mark.parametrize("source", [3, None, torch.nn.Linear(2, 2), ["a"]])
def test_what_can_not_be_a_model(source: object) -> None:
    with pytest.raises(OptionError, match="a model is"):
        load_model(source)


def test_missing_folders_and_unknown_hub_names(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no model folder at"):
        load_model(tmp_path / "none")
    with pytest.raises(CheckpointError, match="there is no model folder at"):
        load_model("./none")
    with pytest.raises(CheckpointError, match="org/none is neither a folder nor a model"):
        load_model("org/none")


def test_few_bits_are_refused_by_name(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path / "model", "llama")
    for i, (settings, named) in enumerate(
        [
            ({"quant_method": "hqq"}, "4-bit weights .hqq"),
            ({"quant_method": "auto-round", "bits": 4}, "4-bit weights .auto-round"),
            ({"quant_method": "awq", "bits": 4, "version": "gemv"}, "4-bit .*gemv"),
            ({"quant_method": "gptq", "bits": 2, "group_size": 32}, "2-bit weights"),
        ]
    ):
        few = edited(path, tmp_path / str(i), quantization_config=settings)
        with pytest.raises(CheckpointError, match=named) as caught:
            load_model(few)
        assert "--dtype int8" in str(caught.value)


@needs_kernels
def test_cpu_models_run_compiled(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path, "llama")
    for dtype, kind in (("int8", torch.int8), ("float32", torch.float32)):
        model = load_model(path, dtype=dtype, device="cpu", threads=1)
        assert isinstance(model, NativeDecoder) and model.dtype == kind
        assert model.threads.of(8) == 1
    assert isinstance(load_model(path, dtype="float64"), Decoder)


@needs_kernels
def test_auto_takes_the_fastest_dtype_of_small_divergence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Candidates in the order of their speed, and the reason in one line."""
    path = make_checkpoint(tmp_path, "llama")

    def chosen(*divergences: float) -> tuple[str, str]:
        found = iter(Quality(loss=2.0, kl=kl, agreement=0.9, tokens=8) for kl in divergences)
        monkeypatch.setattr("outrider.models.quality.quality_of", lambda *_: next(found))
        info = load_model(path, device="cpu").info
        return info.weights, info.weights_reason

    assert chosen(0.004)[0] == "int8-channels"
    weights, reason = chosen(0.006, 0.002)
    assert weights == "int8" and "KL 0.0020" in reason and "the limit is 0.005" in reason
    weights, reason = chosen(0.03, 0.006)
    assert weights == "float32" and "int8-channels has KL 0.0300, int8 has KL 0.0060" in reason
    monkeypatch.setattr("outrider.models.quality.checkable", lambda _: False)
    assert chosen()[0] == "float32" and "not checked" in chosen()[1]


@pytest.mark.parametrize("dtype", ["int8", "float32", "auto"])
def test_without_kernels_it_runs_eagerly_and_says_so(
    dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_checkpoint(tmp_path, "llama")
    monkeypatch.setattr("outrider.kernels.available", lambda: False)
    monkeypatch.setattr("outrider.kernels.reason_missing", lambda: "there is no C compiler")
    if dtype == "int8":
        with pytest.warns(FallbackWarning, match="draft runs in float32: there is no C compiler"):
            model = load_model(path, dtype=dtype, device="cpu", name="draft")
    else:
        model = load_model(path, dtype=dtype, device="cpu")
    assert isinstance(model, Decoder) and model.dtype == torch.float32


def test_int8_where_only_transformers_can_run_it(tmp_path: Path) -> None:
    build(*RUNS["gpt2"]).save_pretrained(tmp_path)
    with pytest.warns(FallbackWarning, match="through transformers, in float32, .*gpt2") as caught:
        model = load_model(tmp_path, dtype="int8")
    assert isinstance(model, TransformersModel) and model.dtype == torch.float32
    assert len(caught) == 1


def test_pickles_are_refused(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path, "llama")
    (path / "model.safetensors").unlink()
    (path / "pytorch_model.bin").write_bytes(b"cos\nsystem\n")
    with pytest.raises(CheckpointError, match="pickle"):
        load_model(path)


def test_hub_names_are_found_among_downloads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_checkpoint(tmp_path, "llama")
    asked: list[str] = []

    def download(name: str, **_: object) -> str:
        asked.append(name)
        return str(path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert local_folder("org/Model-1.5B") == path
    assert isinstance(load_model("org/Model-1.5B"), OURS)
    assert asked == ["org/Model-1.5B"] * 2
    assert local_folder(path) == path


# -- tokenizers --------------------------------------------------------------------------------


def test_tokenizers(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path / "with", "llama", tokenizer=True)
    found = tokenizer_for(path)
    assert found is not None and found.encode("ab") == (97, 98)
    assert tokenizer_for(found) is found
    wrapped = tokenizer_for(found.tokenizer)
    assert isinstance(wrapped, Tokenizer) and wrapped.tokenizer is found.tokenizer
    assert tokenizer_for(make_checkpoint(tmp_path / "without", "llama")) is None
    assert tokenizer_for(None) is None
    assert tokenizer_for(TabularModel.random()) is None


# -- families ----------------------------------------------------------------------------------


def test_families(tmp_path: Path) -> None:
    for tier in ("target", "draft"):
        (tmp_path / "tiny" / tier).mkdir(parents=True)
    (tmp_path / "unfinished" / "draft").mkdir(parents=True)
    found = family("tiny", tmp_path)
    assert found == {"target": tmp_path / "tiny/target", "draft": tmp_path / "tiny/draft"}
    with pytest.raises(OptionError, match=r"unknown family 'tinny'.*Did you mean 'tiny'"):
        family("tinny", tmp_path)
    with pytest.raises(OptionError, match=r"unknown family 'unfinished'.*Known: tiny"):
        family("unfinished", tmp_path)
    with pytest.raises(OptionError, match="has none"):
        family("tiny", tmp_path / "nowhere")


def test_families_ship_with_the_package() -> None:
    assert families_folder().name == "families"
    assert families_folder().parent.joinpath("__main__.py").is_file()


# -- devices and dtypes ------------------------------------------------------------------------


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("name", ["cuda", "cuda:1", "mps"])
def test_devices_that_are_not_there(name: str) -> None:
    assert resolve_device() == resolve_device(CPU) == CPU
    with pytest.raises(OptionError, match="not available"):
        resolve_device(name)


@pytest.mark.usefixtures("two_gpus")
def test_gpus() -> None:
    assert resolve_device() == resolve_device("cuda") == torch.device("cuda", 0)
    assert resolve_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(OptionError, match=r"cuda:2 is not available.*cuda:0 to cuda:1"):
        resolve_device("cuda:2")


@pytest.mark.parametrize(
    ("name", "hint"), [("cup", "'cpu'"), ("cuda:x", "'cuda"), ("cpu:1", "'cpu'"), ("xpu", "Did")]
)
def test_unknown_devices(name: str, hint: str) -> None:
    with pytest.raises(OptionError, match=f"unknown device.*{hint}"):
        resolve_device(name)


def test_dtypes() -> None:
    assert resolve_dtype("auto", CPU) == torch.float32
    assert resolve_dtype("auto", torch.device("cuda", 0)) == torch.bfloat16
    assert resolve_dtype("float16", CPU) == resolve_dtype(torch.float16, CPU) == torch.float16
    with pytest.raises(OptionError, match=r"unknown dtype 'bf16'.*bfloat16"):
        resolve_dtype("bf16", CPU)
    with pytest.raises(OptionError, match="no float64"):
        resolve_dtype("float64", torch.device("mps"))
