"""Derives the name of a method from the module that implements it."""

import keyword


def name_of(module: str) -> str:
    """Return the name of the method in `module`: `drafters.layers.del_` is `del`, `top_k` is
    `top-k`.
    """
    name = module.rpartition(".")[2]
    plain = name[:-1] if name.endswith("_") and keyword.iskeyword(name[:-1]) else name
    return plain.replace("_", "-")
