"""How a new model's weights are scaled before training, beside what its own class does."""

import torch

from vaswani_tx.layers_vaswani import VaswaniAttention


@torch.no_grad()
def scale_attention(model: torch.nn.Module, gain: float) -> None:
    """Multiply the query, key and value matrices of a new model by `gain`.

    At Glorot's own scale (gain 1) each attention layer adds the sentence's mean to every position so strongly that the
    encoder of a small model under strong dropout may never distinguish its positions again (see training/LOG.md).
    torch.nn.MultiheadAttention and fairseq start at 1/sqrt(2), Glorot's scale for the three matrices stacked into one.
    """
    if gain == 1.0:
        return
    for module in model.modules():
        if isinstance(module, VaswaniAttention):
            for projection in (module.q_proj, module.k_proj, module.v_proj):
                projection.weight.mul_(gain)
