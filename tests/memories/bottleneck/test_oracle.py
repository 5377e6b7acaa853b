"""The same arithmetic in the packages of P. Wang: `pip install vector-quantize-pytorch
discrete-key-value-bottleneck-pytorch`."""

import pytest
import torch

from outrider.memories.bottleneck import Bottleneck, Keys
from outrider.memories.bottleneck.keys import RunningMeans

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]
BOOKS, COUNT, SIZE, WIDTH, LABELS = 4, 32, 6, 20, 5


def test_scores_are_those_of_the_package() -> None:
    package = pytest.importorskip("discrete_key_value_bottleneck_pytorch")
    torch.manual_seed(0)
    theirs = package.DiscreteKeyValueBottleneck(
        SIZE,
        num_memories=COUNT,
        dim_embed=WIDTH,
        num_memory_codebooks=BOOKS,
        dim_memory=LABELS,
        codebook_dim=SIZE,  # without it, the package adds a learned projection
    ).eval()
    keys = Keys(
        projections=theirs.rand_proj,
        keys=theirs.vq._codebook.embed.detach().clone(),
        mean=torch.zeros(WIDTH),
        scale=torch.ones(WIDTH),
    )
    assert keys.keys.shape == (BOOKS, COUNT, SIZE)
    states = torch.randn(300, WIDTH)
    own = Bottleneck(
        keys=keys,
        values=theirs.values.detach().clone(),
        used=torch.ones(BOOKS, COUNT, dtype=torch.bool),
        labels=tuple("abcde"),
    )
    with torch.no_grad():
        found, (_, indices, _) = theirs(states[None], return_intermediates=True)
    assert torch.equal(own.keys.fetch(states), indices[0])
    torch.testing.assert_close(own.scores(own.keys.fetch(states)), found[0])


def test_running_means_are_those_of_the_package() -> None:
    """Its smoothing of counts is switched off: `eps` is 0."""
    package = pytest.importorskip("vector_quantize_pytorch")
    torch.manual_seed(1)
    theirs = package.VectorQuantize(SIZE, COUNT, decay=0.95, eps=0.0, threshold_ema_dead_code=0)
    book = theirs._codebook
    book.embed_avg.copy_(book.embed)
    book.cluster_size.fill_(1.0)
    own = RunningMeans(book.embed[0].clone(), 0.95)
    theirs.train()
    first = own.keys.clone()
    for _ in range(30):
        rows = torch.randn(64, SIZE)
        own.step(rows)
        theirs(rows[None])
    assert not torch.allclose(own.keys, first, atol=0.1)
    torch.testing.assert_close(own.keys, book.embed[0], atol=1e-5, rtol=1e-4)
