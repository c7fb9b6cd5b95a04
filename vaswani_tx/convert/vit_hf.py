"""ViT of transformers (Dosovitskiy et al. 2021): the encoder over image patches, norms before the sub-layers."""

from pathlib import Path
from typing import Any

import torch
from transformers import ViTForImageClassification, ViTModel

from vaswani_tx.configuration_vaswani import VaswaniVisionConfig
from vaswani_tx.convert.core import Batch, ConversionError, Converted, KeyMap, Row
from vaswani_tx.convert.hugging_face import is_model, layer_rows, read_settings, with_prefix
from vaswani_tx.convert.originals import original_of
from vaswani_tx.convert.weights import read_weights
from vaswani_tx.image_processing_vaswani import VaswaniImageProcessor
from vaswani_tx.loading import read_object
from vaswani_tx.modeling_vaswani_vision import VaswaniForImageClassification, VaswaniVisionModel

NORMS = {"layernorm_before": "self_attn_residual.norm", "layernorm_after": "feed_forward_residual.norm"}
# As files have it, and as the modules of newer versions of transformers are named.
LAYERS = {
    "vit.encoder.layer.{i}": {
        "attention.attention.query": "self_attn.q_proj",
        "attention.attention.key": "self_attn.k_proj",
        "attention.attention.value": "self_attn.v_proj",
        "attention.output.dense": "self_attn.o_proj",
        "intermediate.dense": "feed_forward.fc1",
        "output.dense": "feed_forward.fc2",
        **NORMS,
    },
    "vit.layers.{i}": {
        "attention.q_proj": "self_attn.q_proj",
        "attention.k_proj": "self_attn.k_proj",
        "attention.v_proj": "self_attn.v_proj",
        "attention.o_proj": "self_attn.o_proj",
        "mlp.fc1": "feed_forward.fc1",
        "mlp.fc2": "feed_forward.fc2",
        **NORMS,
    },
}
_POOLER = "ViT's pooler, a layer of its own on the class token, which the encoder here has not"
IGNORED = [
    *((f"vit.pooler.dense.{part}", _POOLER) for part in ("weight", "bias")),
    ("vit.embeddings.mask_token", "the patch that training by masked images puts in place of others"),
]


def key_map(layer: str, prefix: str, classifier: bool) -> KeyMap:
    """Return the table; `layer` is a key of `LAYERS`, `prefix` in front of our names."""
    rows = [
        Row("vit.embeddings.cls_token", f"{prefix}embedding.class_token"),
        Row("vit.embeddings.position_embeddings", f"{prefix}embedding.positions.weight", "rows"),
        *layer_rows("vit.embeddings.patch_embeddings", f"{prefix}embedding", {"projection": "projection"}),
        *layer_rows(layer, prefix + "layers.{i}", LAYERS[layer]),
        *layer_rows("vit", prefix.removesuffix(".") or "", {"layernorm": "final_norm"}),
    ]
    if classifier:
        rows += [Row(f"classifier.{part}", f"classifier.{part}") for part in ("weight", "bias")]
    return KeyMap([Row(row.source, row.ours.removeprefix("."), row.transform) for row in rows], IGNORED)


def recognises(path: Path) -> bool:
    """Return whether a folder's config.json is of ViT."""
    return is_model(path, "vit")


def read(path: Path) -> Converted:
    """Read a folder of ViT: as a classifier of images where it is one, else as the bare encoder.

    Raises:
        ConversionError: it is damaged, or not of the shape that our models have.
    """
    settings = read_settings(path, ViTModel.config_class, {"qkv_bias": True})
    kind = (settings.architectures or ["ViTModel"])[0]
    if kind not in ("ViTForImageClassification", "ViTModel"):
        raise ConversionError(f"a {kind} has a head that no model here has: only the classifier and the bare encoder.")
    classifier = kind == "ViTForImageClassification"
    source = with_prefix(read_weights(path), "vit", ("classifier",))
    old, new = LAYERS
    layer = old if any(name.startswith("vit.encoder.") for name in source) else new
    state, used, ignored = key_map(layer, "model." if classifier else "", classifier).apply(source)
    notes: list[str] = []
    config = _config(settings, classifier)
    processor = _processor(path, config, notes)
    if classifier:
        single, double = original_of(ViTForImageClassification, path)
    else:
        single, double = original_of(ViTModel, path, _states, add_pooling_layer=False)
    return Converted(
        config,
        state,
        tokenizer=processor,
        notes=notes,
        used=used,
        ignored=ignored,
        original=single,
        original_double=double,
        model_class=VaswaniForImageClassification if classifier else VaswaniVisionModel,
        title=kind,
    )


def _states(model: Any, batch: Batch) -> torch.Tensor:
    return model(**batch).last_hidden_state


def _config(settings: Any, classifier: bool) -> VaswaniVisionConfig:
    labels: dict[str, Any] = {}
    if classifier:
        labels = {"id2label": settings.id2label, "label2id": settings.label2id, "problem_type": settings.problem_type}
    return VaswaniVisionConfig(
        d_model=settings.hidden_size,
        d_ff=settings.intermediate_size,
        num_heads=settings.num_attention_heads,
        num_hidden_layers=settings.num_hidden_layers,
        dropout=settings.hidden_dropout_prob,
        attention_dropout=settings.attention_probs_dropout_prob,
        activation_function=settings.hidden_act,
        layer_norm_eps=settings.layer_norm_eps,
        norm_order="pre",
        final_layer_norm=True,
        attention_bias=True,
        position_embedding="learned",
        image_size=settings.image_size,
        patch_size=settings.patch_size,
        num_channels=settings.num_channels,
        **labels,
    )


def _processor(path: Path, config: VaswaniVisionConfig, notes: list[str]) -> VaswaniImageProcessor:
    """Return the image processor with the settings of the source's, or one of the model's size alone."""
    file = path / "preprocessor_config.json"
    if not file.is_file():
        notes.append("the source has no preprocessor_config.json: images are scaled to -1 ... 1, check that it is so")
        return VaswaniImageProcessor.from_config(config)
    given = read_object(file)
    names = ("do_resize", "size", "resample", "do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std",
             "do_center_crop", "crop_size")  # fmt: skip
    kept = {name: given[name] for name in names if given.get(name) is not None}
    if isinstance(kept.get("size"), int):
        kept["size"] = {"height": kept["size"], "width": kept["size"]}
    notes.append(
        "images are resized by Pillow: the original's processor may use torchvision, whose pixels differ a bit"
    )
    return VaswaniImageProcessor(num_channels=config.num_channels, **kept)
