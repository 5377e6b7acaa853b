"""Every policy of the cache with a small budget, and models under them."""

from dataclasses import replace
from functools import cache

import outrider
from outrider.engine.generator import Generator
from outrider.models.caches.eviction.heads.duo import Duo
from outrider.models.caches.eviction.heads.gates import Gates
from outrider.models.caches.eviction.heads.rlkv import RLKV
from outrider.models.caches.eviction.policy import KvPolicy
from outrider.models.llama.base import OwnModel
from outrider.models.loading import load_model
from outrider.models.sources.families import family
from outrider.strategy.making import make_kv_policy

WORDS = {
    "streaming": "streaming(budget=24,chunk=8,every=8,sinks=2)",
    "h2o": "h2o(budget=24,every=8,each=2)",
    "snapkv": "snapkv(budget=6,window=2)",
    "infllm": "infllm(budget=40,chunk=16,every=8,block=4,sinks=2,local=0.4,probe=4)",
    "actqkv": "actqkv(budget=40,chunk=16,every=8,block=4,sinks=2,local=0.4,probe=4)",
}
"""Policies that need no file."""

GATED: dict[str, type[Duo] | type[RLKV]] = {"duo": Duo, "rlkv": RLKV}
"""Policies that need gates."""

PROMPT = (
    "Once upon a time there was a dog. The dog had a ball. One day the dog lost the ball. "
    "He asked the cat. Once upon a time there was a cat. The cat said to the dog"
)


@cache
def model(tier: str = "target", dtype: str = "float32", cache_dtype: str = "float32") -> OwnModel:
    """A model of the tiny family that keeps all rows."""
    found = load_model(family("tiny")[tier], dtype=dtype, cache_dtype=cache_dtype, threads=1)
    assert isinstance(found, OwnModel)
    return found


def policy(name: str, tier: str = "target") -> KvPolicy:
    """The policy of this name with a budget that texts of the tests exceed."""
    if name in WORDS:
        found = make_kv_policy(WORDS[name])
        assert found is not None
        return found
    own = model(tier)
    gates = Gates.random(own.config.num_layers, own.config.num_kv_heads, 1)
    gates = replace(gates, fingerprint=own.info.fingerprint)
    return GATED[name](gates=gates, sinks=2, recent=8, chunk=8, every=8)


def generator(target: OwnModel, **options: object) -> Generator:
    """A generator of texts of the tiny family."""
    return outrider.load(target, tokenizer=family("tiny")["target"], threads=1, **options)
