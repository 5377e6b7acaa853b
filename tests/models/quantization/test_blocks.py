"""The block formats of GGUF files: each decoder gives the numbers of the `gguf` package."""

import numpy as np
import pytest

from outrider.models.quantization.blocks import BLOCK_FORMATS, BlockFormat

gguf = pytest.importorskip("gguf")


def some_blocks(known: BlockFormat, count: int = 40) -> np.ndarray:
    """Return random blocks; numbers in 16 bits are finite."""
    generator = np.random.default_rng(0)
    blocks = generator.integers(0, 256, (count, known.nbytes), dtype=np.uint8)
    for at in range(known.nbytes - 1):
        high = blocks[:, at + 1]
        high[(high & 0x7C) == 0x7C] &= 0xBF  # neither NaN nor infinity in float16 and bfloat16
    return blocks


@pytest.mark.parametrize("number", BLOCK_FORMATS, ids=lambda n: BLOCK_FORMATS[n].name)
def test_blocks_are_decoded_as_by_the_gguf_package(number: int) -> None:
    known = BLOCK_FORMATS[number]
    kind = gguf.GGMLQuantizationType(number)
    assert kind.name == known.name
    assert gguf.GGML_QUANT_SIZES[kind] == (known.weights, known.nbytes)
    blocks = some_blocks(known)
    theirs = gguf.quants.dequantize(blocks.reshape(4, -1), kind)
    ours = known.decode_rows(blocks.reshape(4, -1))
    assert ours.dtype == np.float32
    np.testing.assert_array_equal(ours, np.asarray(theirs, dtype=np.float32))
    assert np.array_equal(np.signbit(ours), np.signbit(theirs))


HALVES = {"Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}
HALVES |= {"Q4_1": (0, 2), "Q5_1": (0, 2)}
EXTREME = np.array([0.0, -0.0, 6e-8, -6e-8, 6.1e-5, 65504, -65504, 1], dtype=np.float16)


@pytest.mark.parametrize("known", [f for f in BLOCK_FORMATS.values() if f.weights > 1])
def test_extreme_factors_are_decoded_to_the_bit(known: BlockFormat) -> None:
    kind = gguf.GGMLQuantizationType[known.name]
    blocks = some_blocks(known, 256)
    for at in HALVES.get(known.name, (0,)):
        factors = np.random.default_rng(at).choice(EXTREME, len(blocks))
        blocks[:, at : at + 2] = factors.view(np.uint8).reshape(-1, 2)
    theirs = np.asarray(gguf.quants.dequantize(blocks, kind), dtype=np.float32)
    assert np.array_equal(known.decode_rows(blocks).view(np.uint32), theirs.view(np.uint32))


@pytest.mark.parametrize("number", BLOCK_FORMATS, ids=lambda n: BLOCK_FORMATS[n].name)
def test_damaged_blocks_give_no_warning(number: int) -> None:
    """NaN and infinite factors are refused by name later; warnings are errors in tests."""
    known = BLOCK_FORMATS[number]
    for byte in (0x7C, 0xFC, 0x7E, 0xFF):
        for other in (0, 0xFF):
            blocks = np.full((4, known.nbytes), other, dtype=np.uint8)
            blocks[:, 1::2] = byte
            assert known.decode_rows(blocks).shape == (4, known.weights)
