"""The fields of the files of a checkpoint: which values each may hold."""

from collections.abc import Mapping

from outrider.core.errors import CheckpointError
from outrider.core.values import JsonValue
from outrider.models.checkpoints.fields import Field, check_fields, check_values

_VALUE_OR_LIST = (0, 1)


def _size(name: str, most: float | str, **how: JsonValue) -> Field:
    return Field(name, ("whole number",), least=how.pop("least", 1), most=most, **how)


def _number(name: str, least: float, most: float = float("inf"), **how: JsonValue) -> Field:
    return Field(name, ("number",), least=least, most=most, **how)


def _text(name: str, **how: JsonValue) -> Field:
    return Field(name, ("text",), **how)


def _flag(name: str) -> Field:
    return Field(name, ("true or false",))


def _object(name: str) -> Field:
    return Field(name, ("object",))


def _ids(name: str, least: int = 0, levels: tuple[int, ...] = _VALUE_OR_LIST) -> Field:
    return _size(name, "vocabulary", least=least, levels=levels)


LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
"""Names of the number of layers."""
WIDTHS = ("vocab_size", "hidden_size", "n_embd", "d_model", "intermediate_size", "n_inner")
"""Names of sizes that a tensor of the model has as an axis."""
_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")

_SIZES = (
    *(_size(name, "layers") for name in LAYERS),
    *(_size(name, "heads") for name in ("num_attention_heads", "n_head", "num_heads", "n_heads")),
    *(_size(name, "heads") for name in ("num_key_value_heads", "num_kv_heads")),
    *(_size(name, "width") for name in ("hidden_size", "n_embd", "d_model")),
    *(_size(name, "head_dim", least=0) for name in ("head_dim", "v_head_dim")),
    *(_size(name, "head_dim", least=0) for name in ("qk_nope_head_dim", "qk_rope_head_dim")),
    *(_size(name, "width", least=0) for name in ("kv_lora_rank", "q_lora_rank")),
    _size("vocab_size", "vocabulary"),
    _size("intermediate_size", "inner", levels=_VALUE_OR_LIST),  # Gemma 3n: one for each layer
    *(_size(name, "inner") for name in ("n_inner", "ffn_dim")),
    *(_size(name, "experts", least=0) for name in _EXPERTS),
    *(
        _size(name, "positions")
        for name in ("max_position_embeddings", "n_positions", "max_seq_len")
    ),
    _size("original_max_position_embeddings", "positions"),
    _size("sliding_window", "positions", least=0, levels=_VALUE_OR_LIST),
    _size("max_window_layers", float("inf"), least=0),
)

_SHARED = (
    _text("model_type"),
    _text("architectures", levels=(1,)),
    _text("layer_types", levels=(1,)),
    _text("transformers_version"),
    *(_ids(name) for name in ("eos_token_id", "bos_token_id")),
    _ids("pad_token_id", least=-1),  # the first Llama checkpoints hold -1
    *(_flag(name) for name in ("tie_word_embeddings", "is_encoder_decoder", "mlp_bias")),
    *(_flag(name) for name in ("use_sliding_window", "multi_query", "new_decoder_architecture")),
    *(_object(name) for name in ("rope_scaling", "rope_parameters")),
    *(_object(name) for name in ("quantization_config", "text_config", "vision_config")),
    *(_number(name, 0, 1) for name in ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon")),
    _number("rope_theta", 0, above=True),
    _number("initializer_range", 0),
    _size("no_rope_layer_interval", "layers"),
    _size("no_rope_layers", float("inf"), least=0, levels=(1,)),
)

CONFIG = (*_SIZES, *_SHARED)
"""config.json and its text_config."""

_NESTED = tuple(
    Field(one.name, one.kinds, least=min(one.least, 0), most=one.most, levels=(0, 1))
    for one in _SIZES
)
"""Sizes in other parts; encoders of images give a list for each stage."""

_ROPE = (
    *(_text(name) for name in ("rope_type", "type")),
    *(_number(name, 0, above=True) for name in ("rope_theta", "factor", "attention_factor")),
    *(_number(name, 0) for name in ("low_freq_factor", "high_freq_factor")),
    *(_number(name, 0) for name in ("beta_fast", "beta_slow", "mscale", "mscale_all_dim")),
    _number("partial_rotary_factor", 0, 1),
    _size("original_max_position_embeddings", "positions"),
    _size("mrope_section", "head_dim", least=0, levels=(1,)),
    *(_number(name, 0, levels=(1,)) for name in ("short_factor", "long_factor")),
    _flag("truncate"),
)

_QUANTIZATION = (
    _text("quant_method"),
    *(_size(name, 64, levels=(0, 1)) for name in ("bits", "weight_bits")),
    *(_flag(name) for name in ("load_in_4bit", "load_in_8bit", "_load_in_4bit")),
)

GENERATION = (
    _flag("do_sample"),
    _number("temperature", 0, 1e6),
    _size("top_k", float("inf"), least=0),
    *(_number(name, 0, 1, above=True) for name in ("top_p", "typical_p")),
    _number("min_p", 0, 1),
    _number("repetition_penalty", 0, above=True),
    *(_size(name, "positions", least=0) for name in ("min_new_tokens", "min_length")),
    *(_size(name, "positions") for name in ("max_new_tokens", "max_length")),
    *(_ids(name) for name in ("eos_token_id", "bos_token_id")),
    _ids("pad_token_id", least=-1),
    _ids("suppress_tokens", least=-1, levels=(1,)),
    _ids("begin_suppress_tokens", least=-1, levels=(1,)),
    _ids("bad_words_ids", levels=(2,)),
    *(_size(name, float("inf")) for name in ("num_beams", "num_return_sequences")),
    _text("transformers_version"),
)
"""generation_config.json."""

_TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token")

TOKENIZER = (
    _text("tokenizer_class"),
    _number("model_max_length", 1),
    Field("chat_template", ("text", "object"), levels=(0, 1)),
    *(Field(name, ("text", "object")) for name in (*_TOKENS, "mask_token")),
    *(_object(name) for name in ("added_tokens_decoder", "auto_map")),
    *(_flag(name) for name in ("add_bos_token", "add_eos_token", "add_prefix_space", "legacy")),
    _flag("clean_up_tokenization_spaces"),
    *(_text(name) for name in ("padding_side", "truncation_side")),
    Field("additional_special_tokens", ("text", "object"), levels=(0, 1)),
    Field("extra_special_tokens", ("text", "object"), levels=(0, 1)),
)
"""tokenizer_config.json."""

PROCESSOR = (
    *(
        _text(name)
        for name in ("processor_class", "image_processor_type", "feature_extractor_type")
    ),
    *(_flag(name) for name in ("do_resize", "do_rescale", "do_normalize", "do_center_crop")),
    *(_flag(name) for name in ("do_convert_rgb", "do_pad", "do_image_splitting")),
    *(_number(name, 0, levels=(0, 1)) for name in ("image_mean", "image_std")),
    _number("rescale_factor", 0),
    *(_size(name, "image_side", levels=(0, 1)) for name in ("temporal_patch_size", "merge_size")),
    Field("size", ("object", "whole number"), least=1, most="image_side", levels=(0, 1)),
    Field("crop_size", ("object", "whole number"), least=1, most="image_side", levels=(0, 1)),
    Field("patch_size", ("object", "whole number"), least=1, most="image_side", levels=(0, 1)),
    _object("max_image_size"),
)
"""preprocessor_config.json and processor_config.json."""

_SIDES = (
    *(_size(name, "image_side") for name in ("height", "width")),
    *(_size(name, "positions") for name in ("longest_edge", "shortest_edge")),
)
"""Qwen-VL writes numbers of pixels as edges."""

INDEX_FIELDS = (Field("weight_map", ("object",), null=False, needed=True), _object("metadata"))
"""model.safetensors.index.json."""

ADAPTER_TYPE = (_text("peft_type", null=False, needed=True),)
ADAPTER = (
    *ADAPTER_TYPE,
    _size("r", "width", null=False),
    _number("lora_alpha", float("-inf"), null=False),
    *(_object(name) for name in ("rank_pattern", "alpha_pattern")),
    *(_flag(name) for name in ("use_rslora", "use_dora", "lora_bias", "fan_in_fan_out")),
    Field("init_lora_weights", ("text", "true or false")),
    _number("lora_dropout", 0, 1),
    *(Field(name, ("text",), levels=(0, 1)) for name in ("target_modules", "exclude_modules")),
    *(_text(name) for name in ("base_model_name_or_path", "bias", "task_type", "revision")),
)
"""adapter_config.json."""

_IMPLEMENTATIONS = ("attn_implementation", "_attn_implementation", "experts_implementation")


def check_config(file: str, config: Mapping[str, JsonValue]) -> None:
    """Check config.json with its text, vision and rotary settings. Raises `CheckpointError`."""
    check_fields(file, config, CONFIG)
    _check_parts(file, config, "")
    _refuse_hub_code(file, config, "")
    for name, value in config.items():
        if isinstance(value, dict) and name.endswith("_config") and name != "quantization_config":
            table = (*CONFIG,) if name == "text_config" else _NESTED
            check_fields(file, value, table, f"{name}.")
            _check_parts(file, value, f"{name}.")
            _refuse_hub_code(file, value, f"{name}.")


def _check_parts(file: str, config: Mapping[str, JsonValue], inside: str) -> None:
    """Check rotary and quantization settings; the former may differ by type of layer."""
    for name in ("rope_scaling", "rope_parameters"):
        rope = config.get(name)
        if not isinstance(rope, dict):
            continue
        check_fields(file, rope, _ROPE, f"{inside}{name}.")
        for key, own in rope.items():
            if isinstance(own, dict):
                check_fields(file, own, _ROPE, f"{inside}{name}.{key:.60}.")
    quantization = config.get("quantization_config")
    if isinstance(quantization, dict):
        check_fields(file, quantization, _QUANTIZATION, f"{inside}quantization_config.")


def _refuse_hub_code(file: str, config: Mapping[str, JsonValue], inside: str) -> None:
    """Refuse kernels from the hub, which `transformers` downloads and runs."""
    for name in _IMPLEMENTATIONS:
        value = config.get(name)
        values = value.values() if isinstance(value, dict) else (value,)
        if any("/" in str(one) for one in values):
            raise CheckpointError(
                f"{file} has {inside}{name} {value!r:.60}, which is code from the hub and is "
                "not run",
                hint=f"Remove {name} from the file",
            )


def check_processor(file: str, settings: Mapping[str, JsonValue]) -> None:
    """Check the settings of a processor, with the sizes of images. Raises `CheckpointError`."""
    check_fields(file, settings, PROCESSOR)
    for name in ("size", "crop_size", "max_image_size", "patch_size"):
        inner = settings.get(name)
        if isinstance(inner, dict):
            check_fields(file, inner, _SIDES, f"{name}.")
    inner = settings.get("image_processor")
    if isinstance(inner, dict):
        check_fields(file, inner, PROCESSOR, "image_processor.")


def check_adapter(file: str, settings: Mapping[str, JsonValue]) -> None:
    """Check adapter_config.json with its patterns. Raises `CheckpointError`."""
    check_fields(file, settings, ADAPTER)
    check_values(file, "rank_pattern", settings.get("rank_pattern") or {}, ("whole number",))
    alphas = settings.get("alpha_pattern") or {}
    check_values(file, "alpha_pattern", alphas, ("number",), float("-inf"))
