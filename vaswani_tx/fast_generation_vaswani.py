"""`fast_generate`: what `generate` returns, several times sooner, for the encoder-decoders of this package.

`model.generate(**batch, custom_generate=fast_generate)` lets transformers prepare everything as ever (configuration,
encoder, processors, criteria) and then searches with `fast_search_vaswani` in place of transformers' loop over the
model's `forward`. What that cannot do, or what would not see a change that someone made to the model (hooks, adapters,
quantised layers, a subclass), is left to the model's own search: the call then is what it is without `custom_generate`.
"""

from typing import Any

import torch
from torch import nn
from transformers import EncoderDecoderCache, GenerationMixin
from transformers.generation.utils import (
    GENERATION_MODES_MAPPING,
    GenerateBeamEncoderDecoderOutput,
    GenerateEncoderDecoderOutput,
)

from .captured_decoding_vaswani import decoder_for
from .fast_decoder_vaswani import FastDecoder
from .fast_scores_vaswani import EndOfTargets, ScoreProcessors
from .fast_search_vaswani import Searched, beam_search, greedy_search
from .generation_vaswani import GNMTLengthPenalty, VaswaniGenerationMixin
from .layers_vaswani import (
    VaswaniAttention,
    VaswaniDecoderLayer,
    VaswaniFeedForward,
    VaswaniLearnedPositions,
    VaswaniPositionalEncoding,
    VaswaniResidual,
    VaswaniSinusoidalPositions,
)
from .search_vaswani import current_record

# Each beam sees the keys of all beams of its sentence, behind a mask: with many, that would be most of the work.
MOST_BEAMS = 32
_PARTS = (
    VaswaniAttention,
    VaswaniDecoderLayer,
    VaswaniFeedForward,
    VaswaniLearnedPositions,
    VaswaniPositionalEncoding,
    VaswaniResidual,
    VaswaniSinusoidalPositions,
    nn.Dropout,
    nn.Embedding,
    nn.LayerNorm,
    nn.Linear,
    nn.ModuleList,
)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
# Arguments of the model that do not change what the decoder computes, or that are read here.
_READ = {
    "attention_mask",
    "encoder_outputs",
    "past_key_values",
    "use_cache",
    "logits_to_keep",
    "decoder_attention_mask",
}
_IGNORED = {"position_ids", "tokenizer", "assistant_tokenizer", "return_dict"}
_SEARCH = ("_sample", "_prefill", "_get_top_k_continuations", "_get_running_beams_for_next_iteration")
_OWN_SEARCH = ("_beam_search", "_check_early_stop_heuristic")
# What asks `generate` for another search, for which it needs no callable beside it.
OTHER_SEARCHES = ("penalty_alpha", "dola_layers", "num_beam_groups", "constraints", "assistant_model", "streamer")


def _is_plain(module: nn.Module) -> bool:
    """Return whether a module computes what its class says, on plain tensors."""
    if "forward" in vars(module) or any(getattr(module, name) for name in _HOOKS) or hasattr(module, "_hf_hook"):
        return False
    tensors = (*module._parameters.values(), *module._buffers.values())
    return all(tensor is None or type(tensor.data) is torch.Tensor for tensor in tensors)


def _is_known_decoder(model: Any) -> bool:
    """Return whether `FastDecoder` computes what the model's decoder and output layer do."""
    if not isinstance(model, VaswaniGenerationMixin) or not model.config.is_encoder_decoder:
        return False
    if getattr(model.config, "decoder_cell", "attention") != "attention":
        return False
    if type(model).__name__ != "VaswaniForConditionalGeneration":  # another class may lack what is looked at next
        return False
    decoder, head = model.get_decoder(), getattr(model, "lm_head", None)
    forwards = {type(part).__name__: type(part).forward.__module__ for part in (model, model.model, decoder)}
    if any(not module.endswith("modeling_vaswani") for module in forwards.values()):
        return False
    if set(forwards) != {"VaswaniForConditionalGeneration", "VaswaniModel", "VaswaniDecoder"}:
        return False
    outer = (model, model.model, decoder)
    inner = [part for part in decoder.modules() if part is not decoder]
    activations = [layer.feed_forward.activation for layer in decoder.layers]
    known = all(type(part) in _PARTS for part in inner if not any(part is one for one in activations))
    if not known or type(head) is not nn.Linear or not all(map(_is_plain, (*outer, *inner, head))):
        return False
    weights = [weight for part in (*inner, head) for weight in part._parameters.values() if weight is not None]
    kinds = {(weight.dtype, weight.device) for weight in weights}
    return len(kinds) == 1 and weights[0].dtype.is_floating_point and weights[0].device.type != "meta"


def _is_undisturbed(model: Any) -> bool:
    """Return whether nothing around the call changes how its modules compute, or watches them."""
    hooks = nn.modules.module
    if hooks._global_forward_hooks or hooks._global_forward_pre_hooks or torch.compiler.is_compiling():
        return False
    if torch.is_autocast_enabled(model.device.type) or torch.overrides._get_current_function_mode() is not None:
        return False
    drops = model.training and any(isinstance(part, nn.Dropout) and part.p for part in model.get_decoder().modules())
    return not drops and model.config._attn_implementation in ("sdpa", "eager")


def _asks_for_little(model: Any, config: Any, model_kwargs: dict[str, Any]) -> bool:
    """Return whether a call asks for no more than sequences, their scores and their beams."""
    for name in ("scores", "logits", "attentions", "hidden_states"):
        asked = getattr(config, f"output_{name}", None) or getattr(model.config, f"output_{name}", None)
        if asked and (config.return_dict_in_generate or name in ("attentions", "hidden_states")):
            return False
    if getattr(config, "_required", None) or config.low_memory or config.prefill_chunk_size is not None:
        return False
    beams = config.num_beams or 1
    if beams > MOST_BEAMS or (beams > 1 and config.do_sample) or config.max_length is None:
        return False
    known = _READ | _IGNORED
    if any(value is not None and value is not False for name, value in model_kwargs.items() if name not in known):
        return False
    cache = model_kwargs.get("past_key_values")
    if not isinstance(cache, EncoderDecoderCache) or type(cache.self_attention_cache).__name__ != "DynamicCache":
        return False
    is_offloaded = getattr(cache.self_attention_cache, "offloading", False)
    return not is_offloaded and cache.get_seq_length() == 0 and bool(model_kwargs.get("use_cache"))


def _reads_plain_masks(input_ids: torch.Tensor, model_kwargs: dict[str, Any], device: torch.device) -> bool:
    """Return whether every source has a token, and no target padding in front."""
    mask, own = model_kwargs.get("attention_mask"), model_kwargs.get("decoder_attention_mask")
    if own is not None and not bool((own != 0).all()):
        return False
    states = model_kwargs["encoder_outputs"][0]
    if states.device != device or input_ids.device != device or not len(states) == len(input_ids) > 0:
        return False
    return mask is None or (mask.dim() == 2 and mask.shape[1] == states.shape[1] and bool((mask != 0).any(-1).all()))


def _has_its_search(model: Any) -> bool:
    """Return whether the class of the model searches as this package and transformers do."""
    kind = type(model)
    own = all(getattr(kind, name, None) is getattr(VaswaniGenerationMixin, name) for name in _OWN_SEARCH)
    known = (name for name in (*_SEARCH, "_update_finished_beams") if hasattr(GenerationMixin, name))
    return own and all(getattr(kind, name) is getattr(GenerationMixin, name) for name in known)


def supports(model: Any) -> bool:
    """Return whether `fast_generate` can do more for a model than call the model's own search."""
    return isinstance(model, nn.Module) and _is_known_decoder(model) and _has_its_search(model)


def search_of(engine: str | None, model: Any, given: dict[str, Any]) -> dict[str, Any]:
    """Return the keywords that make `generate` use the fast search where it can be of use.

    Args:
        engine: "transformers" for none.
        given: the other keywords of the call.
    """
    others = any(given.get(name) is not None for name in ("custom_generate", *OTHER_SEARCHES))
    # An engine is a model of that name too, whose `generate` is another program's.
    is_ours = isinstance(model, VaswaniGenerationMixin) and not getattr(model, "engine", None)
    if engine == "transformers" or others or not is_ours:
        return {}
    return {"custom_generate": fast_generate}


@torch.no_grad()
def fast_generate(
    model: Any,
    input_ids: torch.LongTensor,
    logits_processor: Any,
    stopping_criteria: Any,
    generation_config: Any,
    synced_gpus: bool = False,
    streamer: Any = None,
    assistant_model: Any = None,
    inputs_tensor: torch.Tensor | None = None,
    **model_kwargs: Any,
) -> torch.LongTensor | GenerateEncoderDecoderOutput | GenerateBeamEncoderDecoderOutput:
    """Search as `generate` does, faster: `model.generate(**batch, custom_generate=fast_generate)`.

    Greedy search, sampling and beam search of a `VaswaniForConditionalGeneration` are computed here; the results have
    the same tokens. Anything else is left to the model's own search.

    Returns:
        What `generate` returns without `custom_generate`. A dictionary (`return_dict_in_generate`) has no
        `past_key_values`, and always has the `sequences_scores` of a beam search.
    """
    config = generation_config
    is_known = (
        not (synced_gpus or streamer is not None or assistant_model is not None)
        and supports(model)
        and _is_undisturbed(model)
        and _asks_for_little(model, config, model_kwargs)
        and _reads_plain_masks(input_ids, model_kwargs, model.lm_head.weight.device)
    )
    if not is_known:
        given = {"synced_gpus": synced_gpus, "streamer": streamer, "assistant_model": assistant_model}
        passed = {name: value for name, value in given.items() if value is not None}
        settings = {"logits_processor": logits_processor, "stopping_criteria": stopping_criteria, **passed}
        return _own_search(model, input_ids, config, inputs_tensor, {**settings, **model_kwargs})
    found = _search(model, input_ids, logits_processor, stopping_criteria, config, model_kwargs)
    if (record := current_record()) is not None:
        record.lengths, record.scores = found.lengths, found.scores
    if not config.return_dict_in_generate:
        return found.sequences
    if found.scores is None:
        return GenerateEncoderDecoderOutput(sequences=found.sequences)
    return GenerateBeamEncoderDecoderOutput(
        sequences=found.sequences, sequences_scores=found.scores, beam_indices=found.beam_indices
    )


# `generate` keeps a streamer, a tokenizer and the like from a callable; these models pass them on (see the mixin).
fast_generate.takes_all_settings = True  # type: ignore[attr-defined]


def _own_search(model: Any, input_ids, config: Any, inputs_tensor, settings: dict[str, Any]) -> Any:
    mode = config.get_generation_mode(settings.get("assistant_model"))
    method = getattr(type(model), GENERATION_MODES_MAPPING[mode], None)
    if method is None:
        raise ValueError(f"{mode.value} is not a search of transformers itself: call generate without custom_generate.")
    if inputs_tensor is not None and GENERATION_MODES_MAPPING[mode] == "_assisted_decoding":
        settings["inputs_tensor"] = inputs_tensor
    return method(model, input_ids, generation_config=config, **settings)


def _search(model: Any, input_ids, logits_processor, stopping_criteria, config: Any, model_kwargs: dict) -> Searched:
    beams = config.num_beams or 1
    repeated = max(beams, config.num_return_sequences or 1)  # hypotheses that `generate` made of each sentence
    memory, mask = model_kwargs["encoder_outputs"][0][::repeated], model_kwargs.get("attention_mask")
    if mask is not None:
        mask = mask[::repeated].to(memory.device)
        mask = None if bool((mask != 0).all()) else mask
    processors, criteria = ScoreProcessors(logits_processor), EndOfTargets(stopping_criteria)
    longest = config.max_length if criteria.longest is None else min(config.max_length, criteria.longest)
    with decoder_for(model, memory, mask, repeated, longest) as decoder:
        return _searched(decoder, input_ids, processors, criteria, config)


def _searched(
    decoder: FastDecoder, input_ids, processors: ScoreProcessors, criteria: EndOfTargets, config: Any
) -> Searched:
    beams = config.num_beams or 1
    padding, ends = config._pad_token_tensor, config._eos_token_tensor
    if beams == 1:
        return greedy_search(decoder, input_ids, processors, criteria, padding, samples=bool(config.do_sample))
    is_ours = (
        isinstance(config.length_penalty, GNMTLengthPenalty) or getattr(config, "_target_limits", None) is not None
    )
    if padding is not None and (is_ours or (ends is not None and int(padding))):
        fill = int(padding)
    else:  # transformers takes a padding id of 0 for none
        fill = -1 if ends is None else int(ends[0])
    traces = bool(config.return_dict_in_generate)
    return beam_search(decoder, input_ids, processors, criteria, config, fill, traces)


__all__ = ["fast_generate", "search_of", "supports"]
