"""`outrider train patches` as a whole, and `outrider draw` with its models."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from outrider.cli.app import app
from outrider.core.errors import CheckpointError, OptionError, OutriderError, StrategyError
from outrider.diffusion.continuous import draw
from outrider.diffusion.continuous.patches.config import Grid
from outrider.diffusion.continuous.patches.files import load_model, save_model
from outrider.diffusion.continuous.patches.model import PatchModel
from outrider.diffusion.continuous.patches.pictures import from_patches, sheet, to_patches
from outrider.training.core.config import read_table
from outrider.training.core.loop import StopSignal, TrainingStopped
from outrider.training.patches import train as training
from outrider.training.patches.config import PatchesRecipe
from outrider.training.patches.data import Pictures, generator, moved, read_pictures
from outrider.training.patches.fit import draft_loss, image_loss, noisy
from outrider.training.patches.train import train_patches
from tests.diffusion.continuous.setups import model

pytestmark = pytest.mark.method("cspd")

RECIPE = """
name = "micro"
threads = 1
held_out = 4

[pictures]
images = "images.tar"
licence = "MIT"

[grid]
side = 8
patch = 4
steps = 3

[target]
hidden_size = 16
layers = 1
heads = 2
head_width = 24
head_blocks = 1

[draft]
hidden_size = 8
layers = 1
heads = 1
head_width = 16
head_blocks = 1

[target_stage]
tokens = 2560
sequence_length = 4
batch = 16
micro_batch = 8
learning_rate = 2e-2

[draft_stage]
tokens = 2560
sequence_length = 4
batch = 16
micro_batch = 16
learning_rate = 2e-2
"""


def write_images(folder: Path, count: int = 16) -> Path:
    """Images of a bright half: left or right of a dark one."""
    folder.mkdir(exist_ok=True)
    with tarfile.open(folder / "images.tar", "w") as tar:
        for number in range(count):
            pixels = np.zeros((8, 8), np.uint8)
            pixels[:, 4 * (number % 2) : 4 * (number % 2) + 4] = 200 + number
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "PNG")
            info = tarfile.TarInfo(f"{number:02}.png")
            info.size = len(buffer.getvalue())
            tar.addfile(info, io.BytesIO(buffer.getvalue()))
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("patches")
    (folder / "micro.toml").write_text(RECIPE)
    write_images(folder / "data")
    return folder


@pytest.fixture(scope="module")
def recipe(place: Path) -> PatchesRecipe:
    return read_table(place / "micro.toml", PatchesRecipe)


@pytest.fixture(scope="module")
def trained(place: Path) -> Path:
    torch.set_num_threads(1)
    return train_patches(
        place / "micro.toml", data=place / "data", out=place / "run", report=lambda _: None
    )


def test_models_are_trained_written_and_read(trained: Path) -> None:
    lines = (trained.parent / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    target = [row for row in rows if row["stage"] == "target"]
    draft = [row for row in rows if row["stage"] == "draft"]
    assert target[-1]["step"] == draft[-1]["step"] == 40
    assert target[-1]["heldout_error"] < 0.6 < target[0]["error"], "1 for no prediction"
    assert draft[-1]["heldout_error"] < draft[0]["error"]
    read = load_model(trained / "target")
    assert read.grid == Grid(side=8, patch=4, steps=3) and not read.training
    card = (trained / "draft" / "README.md").read_text()
    assert "MIT" in card and "heldout_error" in card and "4 patches of 4 x 4" in card


def test_an_interrupted_training_goes_on(
    trained: Path, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the draft stage and begun again, it ends with the same weights."""
    original = training.draft_loss
    calls = 0

    def counted(*given: object) -> tuple[torch.Tensor, torch.Tensor]:
        nonlocal calls
        calls += 1
        if calls == 7:
            stop.asked = True
        return original(*given)  # type: ignore[arg-type]

    stop = StopSignal()
    monkeypatch.setattr(training, "draft_loss", counted)
    monkeypatch.setattr("outrider.training.core.loop.StopSignal", lambda: stop)
    again = {"data": place / "data", "out": tmp_path / "run", "report": lambda _: None}
    with pytest.raises(TrainingStopped):
        train_patches(place / "micro.toml", **again)  # type: ignore[arg-type]
    assert calls == 7
    stop.asked = False
    files = train_patches(place / "micro.toml", **again)  # type: ignore[arg-type]
    for name in ("target", "draft"):
        for a, b in zip(
            load_model(files / name).parameters(),
            load_model(trained / name).parameters(),
            strict=True,
        ):
            assert torch.allclose(a, b, atol=1e-5)


def test_images_of_a_trained_model(trained: Path) -> None:
    """One half is bright, as in the images it learned from."""
    drawing = draw(trained / "target", count=12, seed=1, mode="none")
    halves = np.array([[one[:, :4].mean(), one[:, 4:].mean()] for one in drawing.images])
    assert np.abs(halves[:, 0] - halves[:, 1]).mean() > 60
    assert drawing.values.shape == (12, 4, 16)
    exact = draw(trained / "target", trained / "draft", count=12, seed=1, length=2, prefill=0.0)
    again = draw(trained / "target", trained / "draft", count=3, seed=1, length=2, prefill=0.0)
    assert sum(one.accepted for one in exact.counts) > 0
    assert np.abs(np.stack(again.images) - np.stack(exact.images[:3]).astype(int)).max() <= 1
    halves = np.array([[one[:, :4].mean(), one[:, 4:].mean()] for one in exact.images])
    assert np.abs(halves[:, 0] - halves[:, 1]).mean() > 60


def test_the_command(trained: Path, tmp_path: Path) -> None:
    target, draft = str(trained / "target"), str(trained / "draft")
    file = tmp_path / "sheet.png"
    call = ["draw", target, "--draft", draft, "--out", str(file), "--count", "5", "--seed", "1"]
    outcome = CliRunner().invoke(app, [*call, "--prefill", "0", "--scale", "2", "--json"])
    assert outcome.exit_code == 0, outcome.output
    found = json.loads(outcome.stdout)
    assert (found["images"], found["patches"]) == (5, 4)
    assert found["target_forwards_per_image"] <= 4 and found["accepted"] + found["rejected"] > 0
    with Image.open(file) as image:
        assert image.size == (2 * (3 * 8 + 4), 2 * (2 * 8 + 2))
    outcome = CliRunner().invoke(app, ["draw", target, "--out", str(file)])
    assert outcome.exit_code == 0 and "4.0 target forwards for each image" in outcome.stderr
    outcome = CliRunner().invoke(app, [*call, "--mode", "published"])
    assert outcome.exit_code == 0 and "accepted" in outcome.stderr


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["nowhere"], "no model of patches in nowhere"),
        (["TARGET", "--mode", "published"], "mode published has no draft model"),
        (["TARGET", "--draft", "TARGET", "--mode", "exakt"], "Did you mean 'exact'"),
        (["TARGET", "--prefill", "2"], "prefill is '2'"),
        (["TARGET", "--out", "/nowhere/a.png"], "no folder /nowhere"),
        (["TARGET", "--out", "a.txt"], "no ending of an image file"),
    ],
)
def test_faulty_calls_are_one_line(
    options: list[str], named: str, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [str(trained / "target") if one == "TARGET" else one for one in options]
    words += [] if "--out" in words else ["--out", "a.png"]
    outcome = CliRunner().invoke(app, ["draw", *words])
    assert isinstance(outcome.exception, OutriderError)
    assert named in str(outcome.exception) and "\n" not in str(outcome.exception)
    assert not list(tmp_path.iterdir())


def test_models_that_do_not_fit(trained: Path, tmp_path: Path) -> None:
    save_model(model(1, grid=Grid(side=8, patch=4, steps=3, least_noise=0.2)), tmp_path)
    with pytest.raises(StrategyError, match="other patches or noise levels"):
        draw(trained / "target", tmp_path)
    with pytest.raises(StrategyError, match="no draft model"):
        draw(trained / "target", mode="published")
    with pytest.raises(OptionError, match="count is 0"):
        draw(trained / "target", count=0)


@pytest.mark.parametrize("change", ["format", "grid", "weights", "nan", "text"])
def test_damaged_folders(change: str, tmp_path: Path) -> None:
    made = model(1)
    if change == "nan":
        made.embed_start.data[0] = torch.nan
    save_model(made, tmp_path)
    config = tmp_path / "patches.json"
    if change == "weights":
        (tmp_path / "patches.safetensors").write_bytes(b"x")
    if change == "text":
        config.write_text("{")
    facts = json.loads(config.read_text()) if change in ("format", "grid") else {}
    if change == "format":
        config.write_text(json.dumps(facts | {"format": "other"}))
    if change == "grid":
        config.write_text(json.dumps(facts | {"grid": {"side": 9, "patch": 4}}))
    with pytest.raises(CheckpointError, match="outrider train patches"):
        load_model(tmp_path)


def test_patches_are_in_raster_order() -> None:
    images = torch.arange(2 * 64).float().view(2, 8, 8)
    patches = to_patches(images, 4)
    assert torch.equal(patches[1, 1], images[1, :4, 4:].flatten())
    assert torch.equal(patches[0, 2], images[0, 4:, :4].flatten())
    assert torch.equal(from_patches(patches, 8), images)
    pixels = [np.full((3, 3), value, np.uint8) for value in (1, 2, 3)]
    whole = sheet(pixels)
    assert whole.shape == (8, 8) and whole[0, 7] == 2 and whole[7, 0] == 3 and whole[3, 3] == 128
    with pytest.raises(OptionError):
        sheet([])


def test_batches_depend_on_their_number_alone(recipe: PatchesRecipe, place: Path) -> None:
    images = read_pictures(recipe, place / "data")
    pictures = Pictures(recipe, images)
    assert (len(pictures.trained_on), len(pictures.held_out)) == (12, 4)
    first, again = pictures.batch(3, 4), pictures.batch(3, 4)
    assert torch.equal(first.context, again.context)
    assert not torch.equal(first.clean, pictures.batch(7, 4).clean)
    noise = pictures.measured().context - pictures.measured().clean
    assert float(noise.std()) == pytest.approx(recipe.grid.least_noise, rel=0.2)
    image = images[0]
    assert torch.equal(moved(image, 1, 0)[1:], image[:-1])
    assert torch.equal(moved(image, 0, -2)[:, -1], image[:, -1])


def test_faulty_images(recipe: PatchesRecipe, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="no image set"):
        read_pictures(recipe, tmp_path)
    write_images(tmp_path, 3)
    with pytest.raises(OptionError, match="holds 3 images"):
        read_pictures(recipe, tmp_path)
    (tmp_path / "images.tar").write_bytes(b"x" * 2000)
    with pytest.raises(OptionError, match="cannot be read"):
        read_pictures(recipe, tmp_path)


def test_losses(recipe: PatchesRecipe, place: Path) -> None:
    """A draft model that is the target has no loss; a fresh head predicts variance 1."""
    pictures = Pictures(recipe, read_pictures(recipe, place / "data"))
    batch = pictures.batch(0, 8)
    seen = noisy(batch, recipe.grid, 2, generator(1))
    same = PatchModel(recipe.grid, recipe.target, 1)
    assert [float(one.detach()) for one in draft_loss(same, same, batch, seen)] == [0.0, 0.0]
    error, likelihood = image_loss(same, batch, seen)
    assert float(likelihood.detach()) == pytest.approx(float(error.detach()) / 2, rel=1e-5)
    likelihood.backward()
    own = same.head.last.weight.grad
    assert own is not None and not own[:16].any() and own[16:].any()
