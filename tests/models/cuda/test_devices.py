"""Which device gets which decoder."""

import torch

from outrider.models.cuda import StaticDecoder, decoder_for
from outrider.models.cuda.runner import EagerRunner, runner_for
from outrider.models.llama.decoder import Decoder


def test_accelerators_with_graphs_get_static_shapes() -> None:
    assert decoder_for(torch.device("cuda", 1)) is StaticDecoder
    assert decoder_for(torch.device("cpu")) is Decoder
    assert decoder_for(torch.device("mps")) is Decoder


def test_work_is_called_where_there_are_no_graphs() -> None:
    calls: list[int] = []
    runner = runner_for(torch.device("cpu"))
    assert isinstance(runner, EagerRunner)
    runner.prepare(lambda: calls.append(1))()
    assert calls == [1]
