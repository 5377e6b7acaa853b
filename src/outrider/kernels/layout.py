"""The structures of `csrc/model.h` and `csrc/choose.h`, field by field."""

import ctypes

_I32, _I64, _F32, _F64 = ctypes.c_int32, ctypes.c_int64, ctypes.c_float, ctypes.c_double
_U64, _ADDRESS = ctypes.c_uint64, ctypes.c_void_p


ATTENTION, MLP = 1, 2
"""Parts of a layer, as flags."""

FLOAT32, INT8, BFLOAT16, FLOAT16, GROUPS8, GROUPS4, GROUPS4_MIN, GROUPS4_FINE, GROUPS6 = range(9)
"""Kinds of matrices; see `csrc/matrix.h`."""

GROUP_BYTES = {GROUPS8: 1088, GROUPS4: 576, GROUPS4_MIN: 640, GROUPS4_FINE: 576, GROUPS6: 832}
"""Bytes of a group of 32 inputs of two panels."""
SPAN_NUMBERS = {GROUPS4_FINE: 64, GROUPS6: 32}
"""Numbers in 16 bits of each span of two panels."""


def grouped_bytes(kind: int, outputs: int, inputs: int, span: int = 32) -> int:
    """Return the bytes of a packed matrix of groups.

    Args:
        kind: one of `GROUP_BYTES`.
        outputs: rows of the matrix; panels of 16 come in pairs.
        inputs: columns of the matrix.
        span: inputs that share a scale.
    """
    spans = 2 * SPAN_NUMBERS.get(kind, 0) * -(-inputs // span)
    return -(-outputs // 32) * (-(-inputs // 32) * GROUP_BYTES[kind] + spans)


class Matrix(ctypes.Structure):
    """A packed matrix."""

    _fields_ = [
        ("kind", _I32),
        ("outputs", _I32),
        ("inputs", _I32),
        ("panels", _I32),
        ("quads", _I32),
        ("groups", _I32),
        ("span", _I32),
        ("data", _ADDRESS),
        ("scale", _ADDRESS),
        ("sum", _ADDRESS),
        ("bias", _ADDRESS),
        ("spans", _ADDRESS),
    ]


class Experts(ctypes.Structure):
    """The experts of one layer."""

    _fields_ = [
        ("count", _I32),
        ("chosen", _I32),
        ("normalized", _I32),
        ("router", Matrix),
        ("gate_up", ctypes.POINTER(Matrix)),
        ("down", ctypes.POINTER(Matrix)),
    ]


class Layer(ctypes.Structure):
    """One layer of a decoder."""

    _fields_ = [
        ("qkv", Matrix * 3),
        ("output", Matrix),
        ("gate_up", Matrix),
        ("down", Matrix),
        ("num_qkv", _I32),
        ("input_norm", _ADDRESS),
        ("mlp_norm", _ADDRESS),
        ("output_norm", _ADDRESS),
        ("down_norm", _ADDRESS),
        ("query_norm", _ADDRESS),
        ("key_norm", _ADDRESS),
        ("window", _I32),
        ("rotary", _I32),
        ("whole_norms", _I32),
        ("place", _I32),
        ("parts", _I32),
        ("experts", ctypes.POINTER(Experts)),
    ]


class Model(ctypes.Structure):
    """A decoder."""

    _fields_ = [
        ("num_layers", _I32),
        ("hidden", _I32),
        ("inner", _I32),
        ("heads", _I32),
        ("kv_heads", _I32),
        ("head_dim", _I32),
        ("vocab", _I32),
        ("activation", _I32),
        ("eps", _F32),
        ("embed_scale", _F32),
        ("rows_scale", _F32),
        ("residual_scale", _F32),
        ("attention_scale", _F32),
        ("attention_cap", _F32),
        ("logits_divisor", _F32),
        ("logits_cap", _F32),
        ("embed", Matrix),
        ("norm", _ADDRESS),
        ("layers", ctypes.POINTER(Layer)),
        ("head", Matrix),
    ]


class CacheLayout(ctypes.Structure):
    """Keys and values of one text."""

    _fields_ = [
        ("keys", _ADDRESS),
        ("values", _ADDRESS),
        ("key_scales", _ADDRESS),
        ("value_scales", _ADDRESS),
        ("capacity", _I64),
        ("kind", _I32),
        ("first", _ADDRESS),
        ("shift", _ADDRESS),
    ]


class Places(ctypes.Structure):
    """Positions of the tokens of one text."""

    _fields_ = [("given", _ADDRESS), ("count", _I32), ("shift", _I32)]


class Batch(ctypes.Structure):
    """Rows to read in one forward."""

    _fields_ = [
        ("rows", _I32),
        ("wanted", _I32),
        ("tokens", _ADDRESS),
        ("positions", _ADDRESS),
        ("slots", _ADDRESS),
        ("cache", _ADDRESS),
        ("base", _ADDRESS),
        ("extra_start", _ADDRESS),
        ("extra", _ADDRESS),
        ("given", _ADDRESS),
        ("joined", _ADDRESS),
        ("want", _ADDRESS),
        ("caches", _ADDRESS),
        ("places", _ADDRESS),
        ("cos", _ADDRESS),
        ("sin", _ADDRESS),
        ("local_cos", _ADDRESS),
        ("local_sin", _ADDRESS),
        ("logits", _ADDRESS),
        ("hidden", _ADDRESS),
        ("names", _ADDRESS),
        ("logits_stride", _I64),
        ("states", _ADDRESS),
        ("state_at", _ADDRESS),
        ("keep", _ADDRESS),
        ("keep_at", _ADDRESS),
        ("asked", _ADDRESS),
        ("confidence", _F32),
    ]


AS_IT_IS, BY_RECUR, BY_FUSE = range(3)
"""How the output of a row becomes the input of the next one."""


class DraftHead(ctypes.Structure):
    """A draft head (`csrc/head.h`)."""

    _fields_ = [
        ("layer", ctypes.POINTER(Model)),
        ("target", ctypes.POINTER(Model)),
        ("fuse", Matrix),
        ("recur", Matrix),
        ("up", Matrix),
        ("gate", Matrix),
        ("down", Matrix),
        ("token", Matrix),
        ("hint", Matrix),
        ("state_norm", _ADDRESS),
        ("fused_norm", _ADDRESS),
        ("token_norm", _ADDRESS),
        ("hidden_norm", _ADDRESS),
        ("bias", _ADDRESS),
        ("levels", _ADDRESS),
        ("ids", _ADDRESS),
        ("place", _ADDRESS),
        ("states", _I32),
        ("state_width", _I32),
        ("joins", _I32),
        ("continues", _I32),
        ("normed_stream", _I32),
        ("normed_output", _I32),
    ]


class HeadRows(ctypes.Structure):
    """What the rows of a head read beside their tokens."""

    _fields_ = [
        ("inputs", _ADDRESS),
        ("continued", _I32),
        ("hints", _ADDRESS),
        ("levels", _ADDRESS),
    ]


CHANCES = 32
"""Number of classes of probabilities for which a `Promise` holds chances."""


class Promise(ctypes.Structure):
    """Where a chain ends because a further token is unlikely to be kept (`csrc/head.h`)."""

    _fields_ = [("chances", _ADDRESS), ("least", _F32), ("classes", _ADDRESS)]


class HintTable(ctypes.Structure):
    """The successors of one text (`csrc/hints.h`)."""

    _fields_ = [
        ("keys", _ADDRESS),
        ("values", _ADDRESS),
        ("mask", _U64),
        ("used", _I64),
        ("successors", _ADDRESS),
    ]


class SamplerLayout(ctypes.Structure):
    """The sampling settings of one request."""

    _fields_ = [
        ("temperature", _F32),
        ("top_k", _I32),
        ("top_p", _F64),
        ("min_p", _F64),
        ("seed", _U64),
        ("sample", _U64),
        ("banned", _ADDRESS),
        ("num_banned", _I32),
    ]
