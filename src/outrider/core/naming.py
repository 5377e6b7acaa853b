"""Names of methods, from the files that implement them."""

import keyword


def name_of(module: str) -> str:
    """The method that `module` implements: `drafters.layers.del_` is `del`, `top_k` is `top-k`."""
    name = module.rpartition(".")[2]
    plain = name[:-1] if name.endswith("_") and keyword.iskeyword(name[:-1]) else name
    return plain.replace("_", "-")
