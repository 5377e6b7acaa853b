"""A denoiser as a model of the next token."""

import torch

from outrider.core.types import Prompt, as_ids
from outrider.engine.generator import Generator
from outrider.models.denoisers.next_token import NextToken
from outrider.protocols import Reading, Segment
from outrider.testing import check_runner


def test_it_is_a_runner(writer: Generator) -> None:
    check_runner(writer.strategy.target)


def test_a_row_is_the_prediction_of_one_mask_behind_the_text(writer: Generator) -> None:
    target = writer.strategy.target
    assert isinstance(target, NextToken)
    [cache] = target.start([Prompt(token_ids=(5, 6, 7))])
    [rows] = target.forward([Segment(cache, as_ids([8, 9]))], [as_ids([-1, 1])])
    for found, text in zip(rows.logits, ([5, 6, 7], [5, 6, 7, 8, 9]), strict=True):
        ids = as_ids([*text, target.denoiser.mask_id])
        [wanted] = target.denoiser.read([Reading(ids=ids, want=as_ids([len(text)]))])
        mask = target.denoiser.mask_id
        torch.testing.assert_close(found[:mask], wanted[0, :mask])
    assert (rows.logits[:, target.denoiser.mask_id] < -1e29).all()
