"""The paper's encoder over image patches (Dosovitskiy et al. 2021): the bare model and the image classifier.

Shapes: B batch, I channels, X image height, Y image width, G x W the grid of patches, P = G * W patches, D d_model.
"""

import torch
from torch import nn
from transformers import initialization as init
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_outputs import BaseModelOutputWithPooling, ImageClassifierOutput
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .configuration_vaswani import VaswaniVisionConfig
from .layers_vaswani import VaswaniEncoderLayer, VaswaniSinusoidalPositions, sinusoids
from .loss_vaswani import classification_loss
from .modeling_vaswani import VaswaniEncoder, VaswaniPreTrainedModel, with_records


class VaswaniCountedPatches(VaswaniSinusoidalPositions):
    """Section 3.5's sinusoids over patches counted row by row: the class token is position 0, for any grid."""

    def forward(self, hidden_states: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        """Return the encoding of the class token and the patches, [1 + P, D], in the type of `hidden_states`."""
        return super().forward(hidden_states)


class VaswaniGridPositions(VaswaniSinusoidalPositions):
    """Section 3.5's sinusoids, half of the channels for a patch's row and half for its column, for any grid.

    Rows and columns count from 1: only the class token is in row and column 0.
    """

    def __init__(self, longest_side: int, d_model: int):
        super().__init__(longest_side + 1, d_model // 2)

    def forward(self, hidden_states: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        """Return the encoding of the class token and the patches, [1 + P, D], in the type of `hidden_states`."""
        table, (rows, columns) = self.table, grid
        if max(grid) >= self.num_positions:
            table = sinusoids(torch.arange(max(grid) + 1, device=table.device), self.d_model)
        halves = (
            table[1 : rows + 1, None].expand(-1, columns, -1),
            table[None, 1 : columns + 1].expand(rows, -1, -1),
        )
        patches = torch.cat(halves, dim=-1).flatten(0, 1)  # [G, W, D] -> [P, D]
        return torch.cat((table[:1].repeat(1, 2), patches)).to(hidden_states)


class VaswaniLearnedPatches(nn.Embedding):
    """A learned position for the class token and each patch of the training images' grid."""

    def __init__(self, grid: tuple[int, int], d_model: int):
        super().__init__(1 + grid[0] * grid[1], d_model)
        self.grid = grid

    def forward(self, hidden_states: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        """Return the embedding of the class token and the patches, [1 + P, D], bicubic in between for other grids."""
        if grid == self.grid:
            return self.weight
        weight = self.weight.to(torch.promote_types(self.weight.dtype, torch.float32))
        patches = weight[1:].unflatten(0, self.grid).permute(2, 0, 1)[None]  # [P, D] -> [1, D, G, W]
        patches = nn.functional.interpolate(patches, size=grid, mode="bicubic", align_corners=False)
        patches = patches[0].flatten(1).transpose(0, 1)  # [1, D, G', W'] -> [P', D]
        return torch.cat((weight[:1], patches)).to(self.weight.dtype)


class VaswaniPatchEmbedding(nn.Module):
    """Projected patches behind the class token, plus positions (section 3.5), with dropout (5.4)."""

    def __init__(self, config: VaswaniVisionConfig):
        super().__init__()
        self.image_size, self.patch_size = _pair(config.image_size), _pair(config.patch_size)
        self.num_channels = config.num_channels
        grid = self.grid(self.image_size)
        self.projection = nn.Conv2d(config.num_channels, config.d_model, self.patch_size, stride=self.patch_size)
        self.class_token = nn.Parameter(torch.zeros(1, 1, config.d_model))
        if config.position_embedding == "learned":
            self.positions = VaswaniLearnedPatches(grid, config.d_model)
        elif config.position_embedding == "sinusoidal_2d":
            self.positions = VaswaniGridPositions(max(grid), config.d_model)
        else:
            self.positions = VaswaniCountedPatches(1 + grid[0] * grid[1], config.d_model)
        self.dropout = nn.Dropout(config.dropout)

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the rows and columns of patches that an image of this height and width has."""
        return size[0] // self.patch_size[0], size[1] // self.patch_size[1]

    def forward(self, pixel_values: torch.Tensor, interpolate_pos_encoding: bool = False) -> torch.Tensor:
        """Turn images [B, I, X, Y] into the input of the first layer, [B, 1 + P, D].

        Raises:
            ValueError: images of another shape, number of channels or size than the model takes.
        """
        self._check(pixel_values, interpolate_pos_encoding)
        # A pipeline or a Trainer may pass float32 images to a model of another type.
        patches = self.projection(pixel_values.to(self.projection.weight.dtype))
        patches = patches.flatten(2).transpose(1, 2)  # [B, D, G, W] -> [B, P, D]
        hidden_states = torch.cat((self.class_token.expand(patches.shape[0], -1, -1), patches), dim=1)
        return self.dropout(hidden_states + self.positions(hidden_states, self.grid(pixel_values.shape[2:])))

    def _check(self, pixel_values: torch.Tensor, interpolate_pos_encoding: bool):
        if pixel_values.dim() != 4 or pixel_values.shape[1] != self.num_channels:
            raise ValueError(
                f"pixel_values must be [B, {self.num_channels}, height, width] (config.num_channels="
                f"{self.num_channels}), but have shape {list(pixel_values.shape)}: bring images to that many channels "
                "with VaswaniImageProcessor(num_channels=...)."
            )
        size = tuple(pixel_values.shape[2:])
        if size == self.image_size:
            return
        shown = f"Images of {size[0]} x {size[1]} pixels"
        if not interpolate_pos_encoding:
            raise ValueError(
                f"{shown} do not match config.image_size {self.image_size[0]} x {self.image_size[1]}: resize them with "
                "the image processor, or give interpolate_pos_encoding=True."
            )
        if any(side < patch or side % patch for side, patch in zip(size, self.patch_size, strict=True)):
            raise ValueError(
                f"{shown} are not made of whole patches of {self.patch_size[0]} x {self.patch_size[1]}: resize them to "
                "multiples of config.patch_size."
            )


class VaswaniVisionPreTrainedModel(VaswaniPreTrainedModel):
    """A base of the image models."""

    config_class = VaswaniVisionConfig
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    _no_split_modules = ["VaswaniEncoderLayer", "VaswaniPatchEmbedding"]
    _former_names = {}  # `embedding` holds the patches' projection too, and keeps its name

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        """Initialise like the other families.

        A patch of normalised pixels and the class token start with channels of variance 1, as the scaled embedding of a
        token does (section 3.4): with less, the sinusoids drown them.
        """
        super()._init_weights(module)
        if isinstance(module, VaswaniPatchEmbedding):
            init.normal_(module.class_token, mean=0.0, std=1.0)
            init.normal_(module.projection.weight, mean=0.0, std=module.projection.weight[0].numel() ** -0.5)
            init.zeros_(module.projection.bias)


class VaswaniVisionModel(VaswaniVisionPreTrainedModel):
    """The encoder stack of section 3.1 over a class token and the patches of an image."""

    _can_record_outputs = VaswaniEncoder._can_record_outputs
    _tp_plan = VaswaniEncoder._tp_plan
    _fsdp_plan = VaswaniEncoder._fsdp_plan

    def __init__(self, config: VaswaniVisionConfig):
        super().__init__(config)
        self.embedding = VaswaniPatchEmbedding(config)
        self.layers = nn.ModuleList(
            VaswaniEncoderLayer(config, layer_idx) for layer_idx in range(config.num_hidden_layers)
        )
        self.final_norm = nn.LayerNorm(config.d_model, config.layer_norm_eps) if config.final_layer_norm else None
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Return the projection of the patches."""
        return self.embedding.projection

    def set_input_embeddings(self, value: nn.Module):
        """Replace the projection of the patches."""
        self.embedding.projection = value

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPooling:
        """Encode images.

        Args:
            pixel_values: [B, I, X, Y], as `VaswaniImageProcessor` gives them.
            attention_mask: [B, 1 + P], 1 for what may be seen, the class token first; or [B, 1, 1 + P, 1 + P].
            interpolate_pos_encoding: take images of another size than `config.image_size`, made of whole patches:
                learned positions are interpolated, sinusoidal ones computed for the larger or smaller grid.

        Returns:
            `last_hidden_state` [B, 1 + P, D], `pooler_output` [B, D] (the class token's), and what was asked for with
            `output_attentions`, `output_hidden_states`, `output_queries`, `output_keys`.

        Raises:
            ValueError: no images, or images of another shape, number of channels or size than the model takes.
        """
        if pixel_values is None:
            raise ValueError("Give pixel_values, [B, channels, height, width].")
        hidden_states = self.embedding(pixel_values, interpolate_pos_encoding)
        attention_mask = create_bidirectional_mask(
            config=self.config, inputs_embeds=hidden_states, attention_mask=attention_mask
        )
        for layer in self.layers:
            hidden_states = layer(hidden_states, attention_mask, **kwargs)
        if self.final_norm is not None:
            hidden_states = self.final_norm(hidden_states)
        return BaseModelOutputWithPooling(last_hidden_state=hidden_states, pooler_output=hidden_states[:, 0])


class VaswaniForImageClassification(VaswaniVisionPreTrainedModel):
    """A classifier of images: a class, several classes or numbers from the class token's last state.

    `config.problem_type` is "single_label_classification", "multi_label_classification" or "regression"; None: derived
    from `num_labels` and the type of the labels, as in transformers' other models.
    """

    def __init__(self, config: VaswaniVisionConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.model = VaswaniVisionModel(config)
        self.dropout = nn.Dropout(config.dropout if config.classifier_dropout is None else config.classifier_dropout)
        self.classifier = nn.Linear(config.d_model, config.num_labels)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ImageClassifierOutput:
        """Classify images.

        Args:
            pixel_values, attention_mask, interpolate_pos_encoding: as for `VaswaniVisionModel`.
            labels: [B] integers (one class each), [B, classes] floats (several classes each), or floats for regression.
            label_smoothing: a keyword, 0.0 without it; e of the smoothed targets of single labels.
            num_items_in_batch: divisor of the summed loss; None: the mean over the batch.

        Returns:
            `loss` (with labels), `logits` [B, classes], and what was asked for with `output_...`.

        Raises:
            ValueError: images that the model does not take, or labels that do not suit `config.problem_type`.
        """
        label_smoothing = kwargs.pop("label_smoothing", 0.0)
        outputs = self.model(
            pixel_values, attention_mask, interpolate_pos_encoding=interpolate_pos_encoding, return_dict=True, **kwargs
        )
        logits = self.classifier(self.dropout(outputs.pooler_output))
        loss = None
        if labels is not None:
            loss = classification_loss(logits, labels, self.config, num_items_in_batch, label_smoothing)
        return with_records(ImageClassifierOutput(loss=loss, logits=logits), outputs)


def _pair(size) -> tuple[int, int]:
    return tuple(size) if isinstance(size, (list, tuple)) else (size, size)


__all__ = ["VaswaniForImageClassification", "VaswaniVisionModel", "VaswaniVisionPreTrainedModel"]
