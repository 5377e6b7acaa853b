"""What holds of `Decoder` holds of `StaticDecoder`: the same tests, run on it."""

import pytest

from outrider.models.cuda import StaticDecoder
from tests.models.llama.test_rounds import (  # noqa: F401
    KINDS,
    test_cache_of_another_model_is_not_reused,
    test_chain_in_pieces,
    test_chunked_prefill,
    test_commit_after_a_tree,
    test_context_is_bounded,
    test_embeddings_instead_of_ids,
    test_equal_prompts_are_read_once,
    test_forgetting_a_round_and_truncating,
    test_forks_diverge,
    test_nothing_to_do,
    test_one_token_at_a_time,
    test_prefill_equals_transformers_with_its_own_cache,
    test_ragged_batch,
    test_reuse_of_a_cache,
    test_rows_come_in_the_order_wanted,
    test_tree,
    test_tree_behind_several_pending_tokens_and_in_two_forwards,
    test_two_segments_of_one_cache,
    test_wide_tree_at_the_end_of_the_context,
)
from tests.models.make_checkpoints import make_checkpoint
from tests.models.reference import Reference

Pair = tuple[StaticDecoder, Reference]


@pytest.fixture(scope="module", params=KINDS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    path = tmp_path_factory.mktemp(request.param)
    make_checkpoint(path, request.param, **KINDS[request.param])
    return StaticDecoder.load(path), Reference(path)
