"""Other systems, measured in the same run on the same weights and prompts."""

from outrider.bench.rivals.hugging_face import HUGGING_FACE
from outrider.bench.rivals.llamacpp import LLAMA_CPP
from outrider.bench.rivals.openvino import OPENVINO
from outrider.bench.rivals.rival import Rival

__all__ = ["rivals"]


def rivals() -> dict[str, Rival]:
    """Return all rivals by name. Their packages are imported only when a rival is opened."""
    known: tuple[Rival, ...] = (*HUGGING_FACE, *LLAMA_CPP, *OPENVINO)
    return {rival.name: rival for rival in known}
