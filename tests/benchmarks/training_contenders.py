"""The contenders of training: one model, loss and optimiser each, on weights that are equal at the start."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from tests.benchmarks import weights as equal
from tests.benchmarks.contenders import Batch, Unavailable
from tests.benchmarks.weights import Place
from tests.benchmarks.works import IGNORED, PAD, SIZES, START, TrainingWork
from vaswani_tx.training.engine.optimizer import PaperAdam, set_learning_rate

RATE = 1e-4
ADAM = {"lr": RATE, "betas": (0.9, 0.98), "eps": 1e-9, "weight_decay": 0.0}


class TorchTrainer:
    """A trainer around a module. A base.

    Args:
        work: what is measured.
        weights: by our names.
    """

    places: dict[str, Place]

    def __init__(self, work: TrainingWork, weights: Mapping[str, torch.Tensor]):
        self.work, self.size = work, SIZES[work.size]
        self.model = self.build(weights)
        equal.load(self.model, weights, self.places)
        self.optimizer = self.make_optimizer()

    def build(self, weights: Mapping[str, torch.Tensor]) -> nn.Module:
        """Return the model and set `places`."""
        raise NotImplementedError

    def make_optimizer(self) -> torch.optim.Optimizer:
        """Return the optimiser: what Trainer takes since torch 2.8, AdamW in its fused form."""
        return torch.optim.AdamW((p for p in self.model.parameters() if p.requires_grad), fused=True, **ADAM)

    def loss(self, batch: Batch) -> torch.Tensor:
        """Return the smoothed cross entropy of all logits."""
        logits = self.logits(batch)
        return nn.functional.cross_entropy(
            logits.flatten(0, 1), batch["labels"].flatten(), ignore_index=IGNORED,
            label_smoothing=self.work.label_smoothing,
        )  # fmt: skip

    def logits(self, batch: Batch) -> torch.Tensor:
        """Return [B, T, V]."""
        raise NotImplementedError

    def gradients(self) -> dict[str, torch.Tensor]:
        """Return the gradients by our names."""
        return equal.gradients(self.model, self.places)

    def update(self) -> None:
        """Update the weights and clear the gradients."""
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def set_dropout(self, active: bool) -> None:
        """Turn dropout on or off."""
        self.model.train(active)


class Marian(TorchTrainer):
    """transformers' MarianMTModel in a plain loop, with torch's smoothed cross entropy."""

    def build(self, weights: Mapping[str, torch.Tensor]) -> nn.Module:
        self.places = equal.marian_places(weights)
        return marian_model(self.size, self.work.vocab_size, self.work.dropout)

    def logits(self, batch: Batch) -> torch.Tensor:
        return self.model(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"],
            decoder_input_ids=batch["decoder_input_ids"], use_cache=False,
        ).logits  # fmt: skip


def marian_model(size: Any, vocab_size: int, dropout: float) -> nn.Module:
    """Return a MarianMTModel with the paper's table of sinusoids."""
    from transformers import MarianConfig, MarianMTModel

    config = MarianConfig(
        vocab_size=vocab_size, d_model=size.d_model, encoder_ffn_dim=size.d_ff, decoder_ffn_dim=size.d_ff,
        encoder_attention_heads=size.num_heads, decoder_attention_heads=size.num_heads, encoder_layers=size.layers,
        decoder_layers=size.layers, dropout=dropout, attention_dropout=0.0, activation_dropout=0.0,
        activation_function="relu", scale_embedding=True, tie_word_embeddings=True,
        share_encoder_decoder_embeddings=True, max_position_embeddings=equal.POSITIONS, pad_token_id=PAD,
        bos_token_id=START, eos_token_id=2, decoder_start_token_id=START, forced_eos_token_id=None,
    )  # fmt: skip
    model = MarianMTModel(config)
    for stack in (model.model.encoder, model.model.decoder):
        stack.embed_positions.weight.data.copy_(equal.table(size.d_model))
    return model


class MarianBySmoother(Marian):
    """MarianMT with the arithmetic of Trainer's LabelSmoother, which keeps two more matrices of all logits."""

    def loss(self, batch: Batch) -> torch.Tensor:
        from transformers.trainer_pt_utils import LabelSmoother

        smoother = LabelSmoother(epsilon=self.work.label_smoothing, ignore_index=IGNORED)
        return smoother({"logits": self.logits(batch)}, batch["labels"])


class Practice(Marian):
    """What `run_translation_no_trainer.py` does: MarianMT's own loss over all logits of its own batches.

    They are random, of a fixed number of sentences, padded to the longest. There is no smoothing in that script.
    """

    def loss(self, batch: Batch) -> torch.Tensor:
        if self.work.label_smoothing:
            return super().loss(batch)
        return self.model(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=batch["labels"]
        ).loss


class Ours(TorchTrainer):
    """This project's model as its own training calls it, with the paper's Adam."""

    options: Mapping[str, Any] = {"skip_logits": True, "use_cache": False}

    def build(self, weights: Mapping[str, torch.Tensor]) -> nn.Module:
        self.places = equal.own_places(weights)
        return own_model(self.size, self.work.vocab_size, self.work.dropout)

    def make_optimizer(self) -> torch.optim.Optimizer:
        optimizer = PaperAdam().build(self.model.parameters())
        set_learning_rate(optimizer, RATE)
        return optimizer

    def loss(self, batch: Batch) -> torch.Tensor:
        return self.model(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=batch["labels"],
            label_smoothing=self.work.label_smoothing, **self.options,
        ).loss  # fmt: skip


def own_model(size: Any, vocab_size: int, dropout: float) -> nn.Module:
    """Return our model with the biases and the epsilon that the others have."""
    from vaswani_tx import VaswaniConfig, VaswaniForConditionalGeneration

    return VaswaniForConditionalGeneration(
        VaswaniConfig(
            vocab_size=vocab_size,
            d_model=size.d_model,
            d_ff=size.d_ff,
            num_heads=size.num_heads,
            encoder_layers=size.layers,
            decoder_layers=size.layers,
            dropout=dropout,
            attention_bias=True,
            layer_norm_eps=equal.EPSILON,
            max_position_embeddings=equal.POSITIONS,
            pad_token_id=PAD,
            bos_token_id=START,
            eos_token_id=2,
            decoder_start_token_id=START,
        )
    )


class OursPlain(Ours):
    """Our model on whole rectangles, padding included."""

    def __init__(self, work: TrainingWork, weights: Mapping[str, torch.Tensor]):
        try:
            from vaswani_tx.padding_vaswani import padding_free
        except ImportError:
            raise Unavailable("this version always computes padding, as `ours` does") from None
        self.padding_free = padding_free
        super().__init__(work, weights)

    def loss(self, batch: Batch) -> torch.Tensor:
        with self.padding_free(False):
            return super().loss(batch)


class OursWithLogits(Ours):
    """Our model with all logits, as a plain call with labels returns them."""

    options: Mapping[str, Any] = {"skip_logits": False, "use_cache": False}


class _TorchModel(nn.Module):
    """torch's encoder and decoder between embeddings, as the paper joins them."""

    def __init__(self, size: Any, vocab_size: int, dropout: float):
        super().__init__()
        common = {"dim_feedforward": size.d_ff, "dropout": dropout, "batch_first": True}
        encoder = nn.TransformerEncoderLayer(size.d_model, size.num_heads, **common)
        decoder = nn.TransformerDecoderLayer(size.d_model, size.num_heads, **common)
        # Its layers drop attention weights and inner activations too; the paper and the other contenders do not.
        for layer in (encoder, decoder):
            layer.dropout.p = layer.self_attn.dropout = 0.0
        decoder.multihead_attn.dropout = 0.0
        self.embedding = nn.Embedding(vocab_size, size.d_model)
        self.encoder = nn.TransformerEncoder(encoder, size.layers, enable_nested_tensor=False)
        self.decoder = nn.TransformerDecoder(decoder, size.layers)
        self.dropout = nn.Dropout(dropout)
        self.register_buffer("table", equal.table(size.d_model))

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        scaled = self.embedding(tokens) * self.embedding.embedding_dim**0.5
        return self.dropout(scaled + self.table[: tokens.shape[1]])

    def forward(self, source: torch.Tensor, keep: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        padding = torch.zeros(keep.shape).masked_fill(keep == 0, float("-inf"))
        memory = self.encoder(self.embed(source), src_key_padding_mask=padding)
        future = nn.Transformer.generate_square_subsequent_mask(target.shape[1])
        found = self.decoder(
            self.embed(target), memory, tgt_mask=future, memory_key_padding_mask=padding, tgt_is_causal=True
        )
        return nn.functional.linear(found, self.embedding.weight)


class TorchModules(TorchTrainer):
    """`nn.TransformerEncoder` and `nn.TransformerDecoder` between tied embeddings."""

    def build(self, weights: Mapping[str, torch.Tensor]) -> nn.Module:
        self.places = equal.torch_places(weights, self.size.d_model)
        return _TorchModel(self.size, self.work.vocab_size, self.work.dropout)

    def logits(self, batch: Batch) -> torch.Tensor:
        return self.model(batch["input_ids"], batch["attention_mask"], batch["decoder_input_ids"])


class XTransformers(TorchTrainer):
    """x-transformers' XTransformer, post-norm, with the paper's sinusoids as its positions."""

    def build(self, weights: Mapping[str, torch.Tensor]) -> nn.Module:
        try:
            from x_transformers import XTransformer
        except ImportError as error:
            raise Unavailable(f"x-transformers is not there ({error}): pip install -e '.[bench]'") from None
        size, options = self.size, {}
        for side in ("enc_", "dec_"):
            fields = {
                "num_tokens": self.work.vocab_size, "max_seq_len": equal.POSITIONS, "depth": size.layers,
                "heads": size.num_heads, "attn_dim_head": size.d_model // size.num_heads, "attn_flash": True,
                "pre_norm": False, "ff_mult": size.d_ff / size.d_model, "ff_custom_activation": nn.ReLU(),
                "emb_dropout": self.work.dropout, "attn_sublayer_dropout": self.work.dropout,
                "ff_sublayer_dropout": self.work.dropout,
            }  # fmt: skip
            options |= {side + name: value for name, value in fields.items()}
        model = XTransformer(dim=size.d_model, tie_token_emb=True, **options)
        self.places = equal.x_places(weights)
        decoder = model.decoder.net
        decoder.to_logits.weight = model.encoder.token_emb.emb.weight
        for stack in (model.encoder, decoder):
            positions = stack.pos_emb
            positions.emb.weight.requires_grad_(False)
            positions.emb.weight.copy_(equal.table(size.d_model) / positions.scale)
        # It has no factor on embeddings; both stacks share this module.
        model.encoder.token_emb.register_forward_hook(lambda module, inputs, found: found * size.d_model**0.5)
        return model

    def logits(self, batch: Batch) -> torch.Tensor:
        keep = batch["attention_mask"].bool()
        memory = self.model.encoder(batch["input_ids"], mask=keep, return_embeddings=True)
        return self.model.decoder.net(batch["decoder_input_ids"], context=memory, context_mask=keep)
