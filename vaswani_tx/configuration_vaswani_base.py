"""What the configurations of all families share: the fields of a layer, their checks, and the presets of Table 3."""

import difflib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import GenerationConfig, PreTrainedConfig
from transformers.activations import ACT2FN

# Configuration fields of the models of the paper: "base", "big" and the rows of Table 3. Label smoothing (row D) is
# a keyword of the loss and no field of the model.
PRESETS: dict[str, dict[str, Any]] = {
    "base": {},
    "big": {"d_model": 1024, "d_ff": 4096, "num_heads": 16, "dropout": 0.3},
    "A1": {"num_heads": 1},
    "A4": {"num_heads": 4},
    "A16": {"num_heads": 16},
    "A32": {"num_heads": 32},
    "B_dk16": {"d_k": 16, "d_v": 64},
    "B_dk32": {"d_k": 32, "d_v": 64},
    "C_N2": {"encoder_layers": 2, "decoder_layers": 2},
    "C_N4": {"encoder_layers": 4, "decoder_layers": 4},
    "C_N8": {"encoder_layers": 8, "decoder_layers": 8},
    "C_d256": {"d_model": 256, "d_k": 32, "d_v": 32},
    "C_d1024": {"d_model": 1024, "d_k": 128, "d_v": 128},
    "C_ff1024": {"d_ff": 1024},
    "C_ff4096": {"d_ff": 4096},
    "D_drop0.0": {"dropout": 0.0},
    "D_drop0.2": {"dropout": 0.2},
    "D_ls0.0": {},
    "D_ls0.2": {},
    "E_learned_pos": {"position_embedding": "learned"},
    # Not the paper's: a size for small data, so with initial weights from which it learns to align under dropout.
    "tiny": {
        "d_model": 128, "d_ff": 256, "num_heads": 4, "encoder_layers": 4, "decoder_layers": 4,
        "init_scheme": "deepnorm",
    },
}  # fmt: skip


@dataclass(frozen=True)
class InitScheme:
    """A way to choose the initial weights; biases are zero and norms the identity but where it says otherwise.

    Args:
        source: where it is from.
        embedding_std: standard deviation of the embeddings and the output projection; None: `d_model ** -0.5`.
        embedding_gain: factor on it.
        matrix_std: standard deviation of all other matrices, normal; None: Glorot uniform (Glorot and Bengio 2010).
        attention_gain: factor on the query, key and value matrices.
        depth_gain: whether the matrices of values, of what leaves attention and of the feed-forward network are
            multiplied by `(8 * layers of the stack) ** -0.25`, so that a deep stack starts near the identity.
        linear_defaults: the feed-forward layers, and biases of queries, keys and values, as torch.nn.Linear has them:
            uniform, at most `1 / sqrt(inputs)`.
        zero_padding: whether the padding token's embedding is zero.
    """

    source: str
    embedding_std: float | None = None
    embedding_gain: float = 1.0
    matrix_std: float | None = None
    attention_gain: float = 1.0
    depth_gain: bool = False
    linear_defaults: bool = False
    zero_padding: bool = False

    @property
    def by_place(self) -> bool:
        """Whether matrices differ by their place in a layer."""
        return self.attention_gain != 1.0 or self.depth_gain or self.linear_defaults


# The schemes that the field `init_scheme` may name.
INIT_SCHEMES: dict[str, InitScheme] = {
    "tensor2tensor": InitScheme("tensor2tensor from version 1.3 on, each matrix by itself"),
    # tensor2tensor until 1.2, as in June 2017, had the three matrices of self-attention as one, which is this gain.
    "fairseq": InitScheme("fairseq 0.12", attention_gain=0.5**0.5, linear_defaults=True, zero_padding=True),
    "small": InitScheme("BERT, and MarianMT in transformers", embedding_std=0.02, matrix_std=0.02, zero_padding=True),
    # At Glorot's own scale attention adds so much of the sentence's mean that all positions become one vector.
    "small_attention": InitScheme("measured, training/LOG.md", attention_gain=0.5),
    "deepnorm": InitScheme("Wang et al. 2022 (DeepNet), without its factor on residuals", depth_gain=True),
    # Neighbouring sinusoids are nearly equal: tokens of their size hide from a tagger which position is which.
    "small_embeddings": InitScheme("measured, training/LOG.md", embedding_gain=0.25, attention_gain=0.5**0.5),
}

# Sizes fit into 32 bits; as numbers of heads no more divisors than that are tried.
_LARGEST_SIZE, _MOST_TRIED = 2**31 - 1, 100_000

# Keywords that transformers and the Hub put into a config.json beside the fields of its class.
_FOREIGN_KEYS = frozenset(
    (
        "adapters", "attn_implementation", "auto_map", "base_model_name_or_path", "custom_pipelines",
        "experts_attention_implementation", "experts_implementation", "finetuning_task", "loss_type", "model_type",
        "name_or_path", "num_labels", "output_attentions", "per_layer_config", "quantization_config",
        "task_specific_params", "tie_last_hidden_states", "tokenizer_class", "torch_dtype", "transformers_weights",
    )
)  # fmt: skip

# Fields of other models that would make another model of these, unless they agree with the field that is read here: the
# first of those named that has a value.
_SAME_AS = {
    "decoder_vocab_size": ("vocab_size",),
    "src_vocab_size": ("source_vocab_size", "vocab_size"),
    "tgt_vocab_size": ("vocab_size",),
    "num_key_value_heads": ("num_heads",),
}


def nearest(name: str, known) -> str:
    """Return ``": did you mean 'x'?"`` for the known name nearest to `name`, or an empty string."""
    close = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.6)
    return f": did you mean {close[0]!r}?" if close else ""


def preset_fields(name: str) -> dict[str, Any]:
    """Return the configuration fields of a preset.

    Raises:
        ValueError: there is no preset of that name; the nearest one is named.
    """
    if name not in PRESETS:
        raise ValueError(f"There is no preset {name!r}{nearest(name, PRESETS)} Known: {', '.join(PRESETS)}.")
    return dict(PRESETS[name])


@strict
class VaswaniBaseConfig(PreTrainedConfig):
    """A base of the configurations of all families: the fields of a layer, their checks, aliases and presets."""

    attribute_map: ClassVar[dict[str, str]] = {
        "hidden_size": "d_model",
        "intermediate_size": "d_ff",
        "ffn_dim": "d_ff",
        "num_attention_heads": "num_heads",
        "head_dim": "d_k",
        "hidden_dropout_prob": "dropout",
        "attention_probs_dropout_prob": "attention_dropout",
        "hidden_act": "activation_function",
    }
    # The inherited plan names a final `norm` that these models do not have; the stacks have their own plans.
    base_model_fsdp_plan: ClassVar[dict[Any, str]] = {}
    # Fields that hold a number of layers, of positions, or other sizes of at least 1.
    _layer_fields: ClassVar[tuple[str, ...]] = ("num_hidden_layers",)
    _size_fields: ClassVar[tuple[str, ...]] = ("vocab_size", "d_model", "d_ff", "num_heads", "max_position_embeddings")
    _position_kinds: ClassVar[tuple[str, ...]] = ("sinusoidal", "learned")
    _token_fields: ClassVar[tuple[str, ...]] = ("pad_token_id", "bos_token_id", "eos_token_id")

    d_model: int = 512
    d_ff: int = 2048
    num_heads: int = 8
    d_k: int | None = None
    d_v: int | None = None
    dropout: float | int = 0.1
    attention_dropout: float | int = 0.0
    activation_dropout: float | int = 0.0
    activation_function: str = "relu"
    layer_norm_eps: float | int = 1e-6
    norm_order: str = "post"
    final_layer_norm: bool = False
    attention_bias: bool = False
    position_embedding: str = "sinusoidal"
    init_scheme: str = "tensor2tensor"

    def __post_init__(self, **kwargs):
        # Aliases arrive here, after the fields: they must be in place before anything is derived from a field.
        self._take_aliases(kwargs)
        self._refuse_other_models(kwargs)
        self._check_sizes()
        self._check_token_ids(kwargs)
        self._warn_unknown(kwargs)
        if self.d_k is None:
            self.d_k = self._head_width("d_k")
        if self.d_v is None:
            self.d_v = self._head_width("d_v")
        super().__post_init__(**kwargs)

    @classmethod
    def from_preset(cls, name: str, **overrides):
        """Build a configuration from a named preset ("base", "big", "tiny", or a row of Table 3 such as "B_dk16").

        Args:
            name: a key of `PRESETS`.
            **overrides: fields or aliases that take precedence over the preset's.

        Raises:
            ValueError: the preset is unknown, or a field is wrong.
        """
        fields = preset_fields(name)
        if cls._layer_fields == ("num_hidden_layers",):
            layers = fields.pop("encoder_layers", cls.num_hidden_layers)
            fields.pop("decoder_layers", None)
            fields["num_hidden_layers"] = layers
        given = {cls.attribute_map.get(key, key) for key in overrides}
        return cls(**{key: value for key, value in fields.items() if key not in given}, **overrides)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs):
        """Build the configuration that was saved; an installed package drops what refers to code in the folder.

        Its own classes load such a folder without that code, and a later `save_pretrained`, which writes none, must not
        refer to any.
        """
        if __name__.startswith("vaswani_tx."):
            references = ("auto_map", "custom_pipelines")
            config_dict = {key: value for key, value in config_dict.items() if key not in references}
        return super().from_dict(config_dict, **kwargs)

    def validate_architecture(self):
        """Check the whole configuration: when it is built, and again when it is saved."""
        self._check_sizes()
        self._check_token_ids(vars(self))
        for name in ("d_k", "d_v"):
            if not isinstance(getattr(self, name), int):
                raise ValueError(f"{name} must be a positive integer, not {getattr(self, name)!r}.")

    def _head_width(self, name: str) -> int:
        if self.d_model % self.num_heads:
            # One of twice as many heads or fewer is always nearest; 1 divides every width.
            most = min(self.d_model, 2 * self.num_heads, _MOST_TRIED)
            divisors = [h for h in range(1, most + 1) if self.d_model % h == 0]
            best = min(divisors, key=lambda h: (abs(h - self.num_heads), h))
            raise ValueError(
                f"num_heads={self.num_heads} does not divide d_model={self.d_model}, so {name} cannot be derived: "
                f"choose num_heads={best}, or give d_k and d_v."
            )
        return self.d_model // self.num_heads

    def _check_sizes(self):
        for name in (*self._size_fields, "d_k", "d_v"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ValueError(f"{name} must be a positive integer, not {value!r}.")
            if value is not None and value > _LARGEST_SIZE:
                raise ValueError(f"{name} must be at most {_LARGEST_SIZE:,}, not {value:,}.")
        for name in self._layer_fields:
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a positive number of layers, not {value!r}.")
            if value > _LARGEST_SIZE:
                raise ValueError(f"{name} must be at most {_LARGEST_SIZE:,}, not {value:,}.")
        for name in (field for field in self.__dataclass_fields__ if field.endswith("dropout")):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                raise ValueError(f"{name} is a rate and must be at least 0 and below 1, not {value!r}.")
        if not self.layer_norm_eps > 0:
            raise ValueError(f"layer_norm_eps must be above 0, not {self.layer_norm_eps!r}.")
        if self.norm_order not in ("post", "pre"):
            raise ValueError(f"norm_order must be 'post' (the paper's) or 'pre', not {self.norm_order!r}.")
        if self.init_scheme not in INIT_SCHEMES:
            raise ValueError(
                f"init_scheme={self.init_scheme!r} is unknown{nearest(self.init_scheme, INIT_SCHEMES) or '.'} Known: "
                f"{', '.join(INIT_SCHEMES)}."
            )
        self._check_positions()
        if self.activation_function not in ACT2FN:
            raise ValueError(
                f"activation_function={self.activation_function!r} is unknown"
                f"{nearest(self.activation_function, ACT2FN) or '.'} The paper's is 'relu'."
            )

    def _check_positions(self):
        if self.position_embedding not in self._position_kinds:
            kinds = " or ".join(map(repr, self._position_kinds))
            raise ValueError(f"position_embedding must be {kinds}, not {self.position_embedding!r}.")
        channels = {"sinusoidal": 2, "sinusoidal_2d": 4}.get(self.position_embedding, 1)
        if self.d_model % channels:
            raise ValueError(
                f"d_model={self.d_model} does not suit position_embedding={self.position_embedding!r}, which fills "
                f"channels {channels} at a time with sines and cosines: choose "
                f"d_model={self.d_model + channels - self.d_model % channels}, or position_embedding='learned'."
            )

    def _check_token_ids(self, further: Mapping[str, Any]):
        """Raise ValueError where a field `..._token_id`, its own or a further one, is outside of the vocabulary."""
        size = getattr(self, "vocab_size", None)
        if size is None:
            return
        found = {name: value for name, value in further.items() if name.endswith("_token_id")}
        for name, value in ({name: getattr(self, name) for name in self._token_fields} | found).items():
            for token in value if isinstance(value, (list, tuple)) else [value]:
                if token is not None and (type(token) is not int or not 0 <= token < size):
                    raise ValueError(
                        f"{name} must be an id of the vocabulary, from 0 to {size - 1} (vocab_size={size}), or None; "
                        f"not {value!r}."
                    )

    def _take_aliases(self, kwargs: dict[str, Any]):
        """Set the fields that are given under other names; two names of one field must agree."""
        taken: dict[str, str] = {}
        for alias in [key for key in kwargs if key in self.attribute_map]:
            name, value = self.attribute_map[alias], kwargs.pop(alias)
            was = getattr(self, name)
            other = taken.get(name) or (name if was != self.__dataclass_fields__[name].default else None)
            if other and was != value:
                raise ValueError(f"{other}={was!r} and {alias}={value!r} are both the field {name}: give one of them.")
            taken[name] = alias
            setattr(self, name, value)

    def _refuse_other_models(self, kwargs: dict[str, Any]):
        """Drop fields of other models that agree with one of this model; raise ValueError where they do not."""
        for name in [name for name in _SAME_AS if name in kwargs]:
            value = kwargs[name]
            field = next((one for one in _SAME_AS[name] if getattr(self, one, None) is not None), None)
            if field is None:
                continue
            own = getattr(self, field)
            if value not in (None, own):
                raise ValueError(f"{name}={value!r} differs from {field}={own!r}{self._advice_on(name, field)}")
            del kwargs[name]

    def _advice_on(self, name: str, field: str) -> str:
        """Return how a field of another model's configuration, which does not agree with `field`, is to be given."""
        if "source_vocab_size" not in self.__dataclass_fields__ or "vocab" not in name:
            return f", which is the only one that these models have: leave {name} out, or make the two equal."
        if field == "source_vocab_size":
            return ", which is the size of the source's vocabulary here: leave one of them out."
        return (
            ", which is the size of the target's vocabulary, and of the source's too unless it has its own: leave "
            f"{name} out, and where the two differ give source_vocab_size beside vocab_size."
        )

    def _warn_unknown(self, kwargs: dict[str, Any]):
        fields = {name for name in self.__dataclass_fields__ if not name.startswith("_")} | set(self.attribute_map)
        generation = GenerationConfig._get_default_generation_params()
        for key in kwargs:
            if key.startswith("_") or key in _FOREIGN_KEYS or key in generation or key in fields:
                continue
            warnings.warn(
                f"{type(self).__name__} has no field {key!r}{nearest(key, fields) or '.'} The value is kept in the "
                "configuration, but nothing reads it.",
                UserWarning,
                stacklevel=4,
            )


@strict
class VaswaniTextConfig(VaswaniBaseConfig):
    """A base of the configurations of the text families: what the first layer is given.

    The fields beyond `VaswaniBaseConfig`'s are not the paper's, but those of models that were trained elsewhere:

    Args:
        position_frequencies: of the sinusoids; "paper": channel 2i turns by 10000^(-2i/d_model) a position (section
            3.5); "tensor2tensor": by 10000^(-i/(d_model/2 - 1)), as that toolkit and fairseq do.
        position_offset: the number of the first position of the sinusoids, 0 in the paper; fairseq's is 2.
        embedding_norm: a LayerNorm on the sum of embedding and position, before dropout, as in BERT.
    """

    _frequency_kinds: ClassVar[tuple[str, ...]] = ("paper", "tensor2tensor")

    position_frequencies: str = "paper"
    position_offset: int = 0
    embedding_norm: bool = False

    def _check_positions(self):
        super()._check_positions()
        if self.position_frequencies not in self._frequency_kinds:
            kinds = " or ".join(map(repr, self._frequency_kinds))
            raise ValueError(f"position_frequencies must be {kinds}, not {self.position_frequencies!r}.")
        if self.position_frequencies == "tensor2tensor" and self.d_model < 4:
            raise ValueError(
                f"position_frequencies='tensor2tensor' needs d_model of at least 4, not {self.d_model}: it divides by "
                "d_model/2 - 1."
            )
        if not 0 <= self.position_offset <= _LARGEST_SIZE:
            raise ValueError(f"position_offset must be a number of positions, 0 or more, not {self.position_offset!r}.")
        if self.position_embedding == "learned" and (self.position_offset or self.position_frequencies != "paper"):
            raise ValueError(
                "position_offset and position_frequencies are of sinusoids: leave them out with "
                "position_embedding='learned'."
            )


__all__ = [
    "INIT_SCHEMES",
    "PRESETS",
    "InitScheme",
    "VaswaniBaseConfig",
    "VaswaniTextConfig",
    "nearest",
    "preset_fields",
]
