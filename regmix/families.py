"""Model families of transformers: the shape of a decoder that a ``config.json`` describes.

The counterpart of :class:`regmix.sizes.ModelShape` for models that transformers' own modules are
trained from. A config is read strictly: a key that is not known could change what the model
computes, so it is refused and not skipped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from regmix.errors import UserError, unknown_name
from regmix.files import read_json
from regmix.keys import Keys
from regmix.sizes import ModelShape

FULL, SLIDING = "full_attention", "sliding_attention"
"""Kinds of layers, as transformers names them."""


@dataclass(frozen=True)
class _Family:
    """What the members of a family have in common, and what its config leaves out by default."""

    architecture: str
    norm_eps: float
    theta: float
    qk_norm: Literal["none", "heads", "all"]
    """Queries and keys normalised never, head by head, or all heads together."""
    windows: bool = False
    rope_by_kind: bool = False
    """Whether each kind of layer has rotary positions of its own."""
    mlp_bias: bool = False
    needed: tuple[str, ...] = ()
    """Keys whose default in transformers is one published size's, not derived from the others."""


_FAMILIES = {
    "llama": _Family("LlamaForCausalLM", 1e-6, 1e4, "none", mlp_bias=True),
    "qwen3": _Family(
        "Qwen3ForCausalLM", 1e-6, 1e4, "heads",
        windows=True, needed=("head_dim", "num_key_value_heads"),
    ),
    "olmo2": _Family("Olmo2ForCausalLM", 1e-5, 1e4, "all"),
    "olmo3": _Family("Olmo3ForCausalLM", 1e-5, 5e5, "all", windows=True, rope_by_kind=True),
}  # fmt: skip
FAMILIES = tuple(_FAMILIES)
"""Values of ``model_type`` that can be trained."""

_ROPES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "default": ((), ()),
    "linear": (("factor",), ()),
    "llama3": (
        ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"), (),
    ),
    "yarn": (
        ("factor", "original_max_position_embeddings"),
        ("attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"),
    ),
}  # fmt: skip
"""Kinds of rotary positions whose frequencies are fixed: the settings each needs, and may have."""

_UNUSED = (
    "_name_or_path", "_attn_implementation", "architectures", "attn_implementation",
    "bos_token_id", "chunk_size_feed_forward", "dtype", "eos_token_id", "id2label", "label2id",
    "output_attentions", "output_hidden_states", "output_scores", "pad_token_id", "pretraining_tp",
    "problem_type", "return_dict", "torch_dtype", "transformers_version", "use_cache", "vocab_size",
)  # fmt: skip
"""Keys that do not enter the shape: how a model is loaded, called or stopped, and its vocabulary,
which a run takes from its tokenizer."""

_REFUSED = {
    "auto_map": "code from the folder is not run",
    "quantization_config": "quantised weights cannot be trained",
    "num_experts": "mixtures of experts are not supported",
    "num_local_experts": "mixtures of experts are not supported",
    "partial_rotary_factor": "rotary positions on a part of a head are not supported",
    "per_layer_config": "settings of single layers are not supported",
    "clip_qkv": "clipped queries, keys and values are not supported",
}
"""Keys that have a reason of their own for not being supported."""


@dataclass(frozen=True)
class Rope:
    """Rotary positions (arXiv 2104.09864) and how they are stretched."""

    kind: str
    theta: float
    settings: tuple[tuple[str, float | bool], ...] = ()
    """Of the kind, by name, in the order of the names."""

    def to_config(self) -> dict[str, Any]:
        """As in ``rope_parameters``."""
        return {"rope_type": self.kind, "rope_theta": self.theta, **dict(self.settings)}


@dataclass(frozen=True)
class TransformersShape:
    """A decoder of one of transformers' families; every field enters the run's identity."""

    family: str
    """``model_type``."""
    d_model: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    d_ff: int
    context: int
    """Tokens a training sequence."""
    positions: int
    """``max_position_embeddings``: at least the context."""
    tied_embeddings: bool
    attention_bias: bool
    mlp_bias: bool
    norm_eps: float
    init_std: float
    rope: Rope
    sliding_rope: Rope | None
    """Of layers with a window, in families that have one for each kind of layer."""
    window: int | None
    """Keys that a position sees in a sliding layer, itself included."""
    sliding: tuple[bool, ...]
    """Which layers have the window."""

    @property
    def qk_norm(self) -> bool:
        """Whether queries and keys are normalised."""
        return _FAMILIES[self.family].qk_norm != "none"

    @property
    def parameters(self) -> int:
        """Non-embedding parameters: attention, MLP, norms and biases."""
        d, q, kv = self.d_model, self.heads * self.head_dim, self.kv_heads * self.head_dim
        norms = {"none": 0, "heads": 2 * self.head_dim, "all": q + kv}
        block = 2 * d * q + 2 * d * kv + 3 * d * self.d_ff + 2 * d
        block += norms[_FAMILIES[self.family].qk_norm]
        block += self.attention_bias * (q + 2 * kv + d) + self.mlp_bias * (2 * self.d_ff + d)
        return self.layers * block + d

    def flops_per_token(self, vocab_size: int) -> float:
        """Training FLOPs a token: 6 per weight of every matmul, head included, plus attention.

        Kaplan et al. 2020 (arXiv 2001.08361), table 1, as :meth:`ModelShape.flops_per_token`:
        6 for each channel of the queries and each key that is seen, once for scores and once for
        values. Causal attention sees half of the context T on average; with a window W < T it is
        W (1 − W / 2T), which is W but for the first W positions.
        """
        T = self.context
        W = min(self.window or T, T)
        seen = sum(W * (1 - W / (2 * T)) if sliding else T / 2 for sliding in self.sliding)
        weights = self.parameters + vocab_size * self.d_model
        return 6.0 * weights + 12.0 * self.heads * self.head_dim * seen

    def to_config(self) -> dict[str, Any]:
        """What ``config.json`` says of it; without vocabulary and special tokens."""
        family = _FAMILIES[self.family]
        found = {
            "architectures": [family.architecture],
            "model_type": self.family,
            "hidden_size": self.d_model,
            "intermediate_size": self.d_ff,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "max_position_embeddings": self.positions,
            "rms_norm_eps": self.norm_eps,
            "rope_parameters": self.rope.to_config(),
            "hidden_act": "silu",
            "attention_bias": self.attention_bias,
            "attention_dropout": 0.0,
            "initializer_range": self.init_std,
            "tie_word_embeddings": self.tied_embeddings,
        }
        if family.mlp_bias:
            found["mlp_bias"] = self.mlp_bias
        if self.sliding_rope is not None:
            both = {FULL: self.rope.to_config(), SLIDING: self.sliding_rope.to_config()}
            found["rope_parameters"] = both
        if family.windows:
            found["layer_types"] = [SLIDING if s else FULL for s in self.sliding]
            found["sliding_window"] = self.window
        if self.family == "qwen3":
            found["use_sliding_window"] = self.window is not None
        return found

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], where: str, context: int | None = None
    ) -> TransformersShape:
        """The shape that a ``config.json`` describes.

        Args:
            where: the file, for messages.
            context: tokens a training sequence; as many as the config has positions if not given.

        Raises:
            UserError: another family, a feature that is not supported, a missing or unknown key,
                or values that do not fit together; file and key.
        """
        return _read(Keys(config, where), context)

    @classmethod
    def load(cls, path: Path, context: int | None = None) -> TransformersShape:
        """:meth:`from_config` of a file.

        Raises:
            UserError: also where the file is missing or holds no mapping.
        """
        config = read_json(path)
        if not isinstance(config, dict):
            raise UserError(f"{path}: expected a mapping of keys, found {type(config).__name__}")
        return cls.from_config(config, str(path), context)


Shape = ModelShape | TransformersShape
"""What can be trained."""


def shape_to_json(shape: Shape) -> dict[str, Any]:
    """Plain values that :func:`shape_from_json` reads; a native shape's are its fields."""
    if isinstance(shape, ModelShape):
        return asdict(shape)
    return {"context": shape.context, "transformers": shape.to_config()}


def shape_from_json(raw: Mapping[str, Any], where: str = "model") -> Shape:
    """The shape that :func:`shape_to_json` wrote.

    Raises:
        UserError: a key is missing, unknown or of a wrong value.
    """
    if "transformers" not in raw:
        _exactly(raw, [f.name for f in fields(ModelShape)], where)
        return ModelShape(**raw)
    _exactly(raw, ["context", "transformers"], where)
    config = raw["transformers"]
    if not isinstance(config, Mapping):
        raise UserError(f"{where}: transformers: expected a mapping (found {config!r})")
    context = Keys(raw, where).integer("context")
    return TransformersShape.from_config(config, f"{where}: transformers", context)


def _exactly(raw: Mapping[str, Any], names: list[str], where: str) -> None:
    for key in raw:
        if key not in names:
            raise unknown_name("key", key, names, where)
    missing = [name for name in names if name not in raw]
    if missing:
        raise UserError(f"{where}: {', '.join(missing)} missing")


def _read(keys: Keys, context: int | None) -> TransformersShape:
    name = keys.value("model_type")
    if name not in _FAMILIES:
        raise unknown_name("model_type", name, FAMILIES, keys.where)
    family = _FAMILIES[name]
    _check_fixed(keys, family)
    layers, positions = keys.integer("num_hidden_layers"), keys.integer("max_position_embeddings")
    heads, kv_heads, head_dim = _heads(keys, family)
    rope, sliding_rope = _ropes(keys, family)
    window, sliding = _windows(keys, name, layers)
    found = TransformersShape(
        family=name,
        d_model=keys.integer("hidden_size"),
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        d_ff=keys.integer("intermediate_size"),
        context=positions if context is None else context,
        positions=positions,
        tied_embeddings=keys.flag("tie_word_embeddings", False),
        attention_bias=keys.flag("attention_bias", False),
        mlp_bias=keys.flag("mlp_bias", False) if family.mlp_bias else False,
        norm_eps=keys.number("rms_norm_eps", family.norm_eps),
        init_std=keys.number("initializer_range", 0.02),
        rope=rope,
        sliding_rope=sliding_rope,
        window=window,
        sliding=sliding,
    )
    keys.done(_UNUSED, _REFUSED)
    if not 0 < found.context <= positions:
        raise UserError(
            f"{keys.where}: max_position_embeddings: {positions:,} positions for a context of "
            f"{found.context:,} tokens"
        )
    return found


def _check_fixed(keys: Keys, family: _Family) -> None:
    """What can only be one thing here, though a config may say another."""
    architectures = keys.value("architectures", [family.architecture])
    if architectures != [family.architecture]:
        raise keys.wrong("architectures", f"expected ['{family.architecture}']")
    if keys.value("hidden_act", "silu") != "silu":
        raise keys.wrong("hidden_act", "expected 'silu'")
    if keys.number("attention_dropout", 0.0, zero=True):
        raise keys.wrong("attention_dropout", "expected 0: models are trained without dropout")
    if keys.flag("is_encoder_decoder", False):
        raise keys.wrong("is_encoder_decoder", "expected false")


def _heads(keys: Keys, family: _Family) -> tuple[int, int, int]:
    """Heads, key-value heads and their width."""
    for key in family.needed:
        keys.value(key)
    width, heads = keys.integer("hidden_size"), keys.integer("num_attention_heads")
    kv_heads = keys.integer("num_key_value_heads", heads)
    if heads % kv_heads:
        raise keys.wrong("num_key_value_heads", f"expected a divisor of {heads} attention heads")
    # transformers asks Llama for a multiple of the heads even where the heads have another width.
    derived = not keys.has("head_dim") or family.architecture.startswith("Llama")
    if derived and width % heads:
        raise keys.wrong("hidden_size", f"expected a multiple of {heads} attention heads")
    head_dim = keys.integer("head_dim", width // heads)
    if head_dim % 2:
        raise UserError(f"{keys.where}: head_dim: expected an even number (found {head_dim})")
    return heads, kv_heads, head_dim


def _windows(keys: Keys, family: str, layers: int) -> tuple[int | None, tuple[bool, ...]]:
    """The window, and which layers have it."""
    if not _FAMILIES[family].windows:
        return None, (False,) * layers
    window = keys.integer("sliding_window", 4096)
    used = family == "olmo3" or keys.flag("use_sliding_window", False)
    if used and keys.null("sliding_window"):
        raise keys.wrong("sliding_window", "expected a whole number above 0")
    if family == "olmo3":
        default = [FULL if (i + 1) % 4 == 0 else SLIDING for i in range(layers)]
    else:
        first = keys.number("max_window_layers", 28, zero=True)
        default = [SLIDING if used and i >= first else FULL for i in range(layers)]
    kinds = keys.value("layer_types", default)
    if not isinstance(kinds, list) or len(kinds) != layers:
        raise keys.wrong("layer_types", f"expected a list of {layers}, one a layer")
    for kind in kinds:
        if kind not in (FULL, SLIDING):
            raise unknown_name("kind", kind, (FULL, SLIDING), f"{keys.where}: layer_types")
    if not used and SLIDING in kinds:
        raise keys.wrong("layer_types", f"'{SLIDING}' needs use_sliding_window")
    return (window if used else None), tuple(kind == SLIDING for kind in kinds)


def _ropes(keys: Keys, family: _Family) -> tuple[Rope, Rope | None]:
    """Rotary positions of all layers, or of full and of sliding ones.

    Older configs have ``rope_theta`` and ``rope_scaling`` instead of ``rope_parameters``.
    """
    scaling, parameters = keys.has("rope_scaling"), keys.has("rope_parameters")
    if scaling and parameters:
        raise keys.wrong("rope_scaling", "given beside rope_parameters; keep one of them")
    theta = keys.number("rope_theta", family.theta)
    if not family.rope_by_kind:
        return _rope(keys.mapping("rope_scaling" if scaling else "rope_parameters"), theta), None
    if theta != family.theta:
        # transformers would apply it to layers of full attention alone.
        raise keys.wrong("rope_theta", f"say it in rope_parameters, under {FULL} and {SLIDING}")
    if scaling:
        return _rope(keys.mapping("rope_scaling"), theta), Rope("default", theta)
    both = keys.mapping("rope_parameters")
    found = _rope(both.mapping(FULL), theta), _rope(both.mapping(SLIDING), theta)
    both.done()
    return found


def _rope(keys: Keys, theta: float) -> Rope:
    old = keys.value("type", "default")
    kind = keys.value("rope_type", old)
    if keys.has("type") and old != kind:
        raise keys.wrong("type", f"differs from rope_type '{kind}'")
    if kind not in _ROPES:
        raise unknown_name("rope_type", kind, _ROPES, keys.where)
    needed, allowed = _ROPES[kind]
    for key in needed:
        keys.value(key)
    given = sorted(key for key in (*needed, *allowed) if keys.has(key))
    settings = tuple((key, _setting(keys, key)) for key in given)
    found = Rope(kind, keys.number("rope_theta", theta), settings)
    keys.done()
    return found


def _setting(keys: Keys, key: str) -> float | bool:
    if key == "truncate":
        return keys.flag(key)
    if key.startswith("original_max"):
        return keys.integer(key)
    return keys.number(key, zero=key.startswith("mscale"))
