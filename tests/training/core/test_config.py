from collections.abc import Callable
from pathlib import Path

import pytest

from outrider.core.errors import OptionError
from outrider.training.core.config import Stage, load_config
from outrider.training.core.loop import learning_rate

MakeConfig = Callable[..., Path]


def test_the_tiny_recipe_loads() -> None:
    config = load_config(Path(__file__).parents[3] / "configs" / "tiny.toml")
    assert config.name == "tiny"
    assert sum(source.count for source in config.prompts) == 80
    files = {source.file for source in config.corpus.sources}
    assert not files & {source.file for source in config.corpus.heldout}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (("hidden_size = 16", "hiden_size = 16"), "Did you mean 'hidden_size'?"),
        (("[sampling]", "[samplings]"), "Did you mean 'sampling'?"),
        (("weight = 3", "wieght = 3"), "Did you mean 'weight'?"),
        (("layers = 2\n", ""), "'layers' is missing"),
        (("tokens = 6000", 'tokens = "many"'), "Expected int, got str"),
        (("micro_batch = 4", "micro_batch = 3"), "does not divide batch 8"),
        (("stream = [0.9, 1.0]", "stream = [0.9, 0.1]"), "ascending fractions"),
        (('name = "micro"', "name = micro"), "not valid TOML"),
    ],
)
def test_faulty_configurations(
    make_config: MakeConfig, change: tuple[str, str], problem: str
) -> None:
    with pytest.raises(OptionError) as caught:
        load_config(make_config(change))
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="no configuration at"):
        load_config(tmp_path / "none.toml")


def test_the_learning_rate_follows_the_larger_progress() -> None:
    stage = Stage(
        tokens=1000,
        sequence_length=8,
        batch=1,
        micro_batch=1,
        learning_rate=1.0,
        final_learning_rate=0.2,
        warmup_tokens=100,
        max_minutes=10.0,
    )
    assert learning_rate(stage, 50, 0.0) < 0.6
    assert learning_rate(stage, 500, 0.0) == pytest.approx(0.6)
    assert learning_rate(stage, 500, 60 * 7.5) == pytest.approx(0.4)
    assert learning_rate(stage, 500, 1200.0) == pytest.approx(0.2)
