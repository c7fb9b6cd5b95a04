"""The models in tools of other projects: accelerate's device maps, PEFT, plans for several devices, torch.export.

What was tried by hand and why some of it is not tested here is in docs/ecosystem.md.
"""

import json
import os
from pathlib import Path

import pytest
import torch
from accelerate import cpu_offload, infer_auto_device_map
from torch import nn
from torch.distributed.fsdp import register_fsdp_forward_method
from torch.export import Dim
from transformers import AutoModelForSeq2SeqLM
from transformers.distributed import DistributedConfig
from transformers.integrations.executorch import Seq2SeqLMExportableModule
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import vaswani_tx
from tests.helpers.processes import run_launched
from vaswani_tx import VaswaniConfig, VaswaniDecoderConfig, VaswaniEncoderConfig, VaswaniForConditionalGeneration

SIZES = {"vocab_size": 41, "d_model": 32, "d_ff": 64, "num_heads": 4, "max_position_embeddings": 64, "dropout": 0.0}
LAYERS = {"encoder_layers": 2, "decoder_layers": 3}
FAMILIES = {
    "VaswaniForConditionalGeneration": (VaswaniConfig, LAYERS),
    "VaswaniForMaskedLM": (VaswaniEncoderConfig, {"num_hidden_layers": 2}),
    "VaswaniForCausalLM": (VaswaniDecoderConfig, {"num_hidden_layers": 2}),
}
LINEAR_NAMES = {"q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2", "lm_head"}


def make_model(family="VaswaniForConditionalGeneration", **fields):
    torch.manual_seed(5)
    config_class, layers = FAMILIES[family]
    return getattr(vaswani_tx, family)(config_class(**{**SIZES, **layers, **fields})).eval()


def make_batch(batch=3, source=7, target=5) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(6)
    tokens = torch.randint(3, SIZES["vocab_size"], (batch, source), generator=generator)
    mask = torch.ones_like(tokens)
    mask[0, source // 2 :] = 0
    labels = torch.randint(3, SIZES["vocab_size"], (batch, target), generator=generator)
    return {"input_ids": tokens, "attention_mask": mask, "labels": labels}


def translations(model, **settings) -> list[list[int]]:
    inputs = make_batch()
    del inputs["labels"]
    return model.generate(**inputs, **{"num_beams": 3, "max_new_tokens": 8, **settings}).tolist()


def assert_same_model(model, other, tolerance=0.0):
    """Compare logits, the loss with and without logits, and what beam search finds."""
    inputs = make_batch()
    with torch.no_grad():
        expected = other(**inputs)
        torch.testing.assert_close(model(**inputs).logits, expected.logits, rtol=0, atol=tolerance)
        torch.testing.assert_close(model(**inputs, skip_logits=True).loss, expected.loss)
    assert translations(model) == translations(other)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("fields", [{}, {"tie_word_embeddings": False, "norm_order": "pre", "final_layer_norm": True}])
def test_every_weight_matrix_is_a_linear_layer_with_a_usual_name(family, fields):
    model = make_model(family, **fields)
    found = set()
    for name, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            if parameter.dim() > 1 and not isinstance(module, nn.Embedding):
                assert type(module) is nn.Linear, f"{name} is a {type(module).__name__}"
                found.add(name.rpartition(".")[2])
    assert found == LINEAR_NAMES


@pytest.fixture
def saved(tmp_path):
    model = make_model()
    model.save_pretrained(tmp_path / "model")
    return model, tmp_path / "model"


def size_of(model) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())


@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("share", [0.35, 0.6, 0.9])
def test_a_device_map_keeps_layers_whole_and_tied_weights_together(share, separate):
    model = make_model(source_vocab_size=47 if separate else None)
    memory = {0: int(share * size_of(model)), "cpu": 10 * size_of(model)}
    places = infer_auto_device_map(model, max_memory=memory, no_split_module_classes=list(model._no_split_modules))
    assert set(places.values()) == {0, "cpu"}
    assert all(".layers." not in name or name.rpartition(".")[2].isdigit() for name in places), places
    tied = ["model.shared.weight", "lm_head.weight"] + [f"model.{stack}.embed_tokens.weight" for stack in
            ("encoder", "decoder")]  # fmt: skip
    tied = ["lm_head.weight", "model.decoder.embed_tokens.weight"] if separate else tied
    devices = [place for weight in tied for name, place in places.items() if f"{weight}.".startswith(f"{name}.")]
    assert len(devices) == len(tied) and len(set(devices)) == 1, places


@pytest.mark.parametrize("separate", [False, True])
def test_device_maps_change_no_result(saved, tmp_path, separate):
    model, folder = saved
    if separate:
        model, folder = make_model(source_vocab_size=47), tmp_path / "separate"
        model.save_pretrained(folder)
    half = {"cpu": int(0.6 * size_of(model))}
    some_on_disk = {
        "model.shared": "cpu", "lm_head": "cpu", "model.encoder": "cpu", "model.decoder.embed_tokens": "cpu",
        "model.decoder.positional_encoding": "cpu", "model.decoder.layers": "disk",
    }  # fmt: skip
    if separate:
        del some_on_disk["model.shared"]
    for name, settings in {
        "auto": {"device_map": "auto"},
        "split": {"device_map": "auto", "max_memory": half},
        "by hand": {"device_map": some_on_disk},
        "all on disk": {"device_map": {"": "disk"}},
    }.items():
        placed = AutoModelForSeq2SeqLM.from_pretrained(folder, offload_folder=tmp_path / name, **settings)
        assert ("disk" in getattr(placed, "hf_device_map", {}).values()) == (name != "auto"), name
        assert_same_model(placed, model)
        assert translations(placed, num_beams=1, cache_implementation="static") == translations(model, num_beams=1)


@pytest.mark.filterwarnings("ignore:Attempting to save a model with offloaded modules:UserWarning")
def test_an_offloaded_model_is_saved_whole_and_in_pieces(saved, tmp_path):
    model, folder = saved
    placed = AutoModelForSeq2SeqLM.from_pretrained(folder, device_map={"": "disk"}, offload_folder=tmp_path / "disk")
    placed.save_pretrained(tmp_path / "again", max_shard_size="20KB")
    index = json.loads((tmp_path / "again" / "model.safetensors.index.json").read_text())
    pieces = {path.name for path in (tmp_path / "again").glob("*.safetensors")}
    assert len(pieces) > 3 and pieces == set(index["weight_map"].values())
    # The matrix that three places share is written once.
    assert [name for name in index["weight_map"] if "embed" in name or "lm_head" in name] == []
    assert_same_model(AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "again"), model)


class Adapter(nn.Module):
    """What PEFT puts in a layer's place: it shows the layer's weight, but computes more."""

    def __init__(self, layer: nn.Linear):
        super().__init__()
        self.layer = layer
        self.bias = layer.bias
        self.change = nn.Linear(layer.in_features, layer.out_features, bias=False)

    @property
    def weight(self):
        return self.layer.weight

    def forward(self, hidden_states):
        return self.layer(hidden_states) + self.change(hidden_states)


class Doubled(nn.Linear):
    """A layer of another kind that inherits from nn.Linear, as quantised ones do."""

    def forward(self, hidden_states):
        return 2 * super().forward(hidden_states)


class DoublingWeight(torch.Tensor):
    """A weight that is more than its numbers, as torchao's are."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        result = super().__torch_function__(function, types, args, kwargs or {})
        return result * 2 if function is nn.functional.linear else result


def with_weight(model):
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().as_subclass(DoublingWeight))
    return model.lm_head.weight


def with_adapter(model):
    model.lm_head = Adapter(model.lm_head)
    return model.lm_head.change.weight


def with_subclass(model):
    model.lm_head.__class__ = Doubled
    return model.lm_head.weight


def with_hook(model):
    model.lm_head.register_forward_pre_hook(lambda module, inputs: (inputs[0] * 2,))
    return model.lm_head.weight


def with_forward(model):
    plain = model.lm_head.forward
    model.lm_head.forward = lambda hidden_states: plain(hidden_states) * 2
    return model.lm_head.weight


@pytest.mark.parametrize("change", [with_adapter, with_subclass, with_weight, with_hook, with_forward])
def test_the_loss_without_logits_sees_what_replaces_the_output_layer(change):
    gradients, losses, before = [], [], make_model()(**make_batch()).loss
    for skip_logits in (False, True):
        model = make_model()
        weight = change(model)
        torch.manual_seed(7)
        if change is with_adapter:
            nn.init.normal_(weight)
        output = model(**make_batch(), skip_logits=skip_logits)
        assert (output.logits is None) == skip_logits
        output.loss.backward()
        losses.append(output.loss)
        gradients.append(weight.grad)
    assert abs(losses[0] - before) > 0.01
    torch.testing.assert_close(losses[1], losses[0])
    torch.testing.assert_close(gradients[1], gradients[0])


def test_weights_that_come_to_the_device_for_each_layer_change_no_result():
    assert_same_model(cpu_offload(make_model(), execution_device="cpu"), make_model())


def export_shapes(longest: int) -> dict:
    rows, source = Dim("rows", max=64), Dim("source", min=2, max=longest)
    return {"input_ids": {0: rows, 1: source}, "attention_mask": {0: rows, 1: source}}


def decoding_inputs(*sizes) -> dict[str, torch.Tensor]:
    inputs = make_batch(*sizes)
    inputs["decoder_input_ids"] = inputs.pop("labels")
    return inputs


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.fresh
def test_an_exported_model_takes_any_batch_and_length(attention, tmp_path):
    model = make_model()
    model.set_attn_implementation(attention)
    target = {0: Dim("rows", max=64), 1: Dim("target", min=2, max=64)}
    shapes = export_shapes(64) | {"decoder_input_ids": target, "use_cache": None}
    program = torch.export.export(model, (), decoding_inputs() | {"use_cache": False}, dynamic_shapes=shapes)
    torch.export.save(program, tmp_path / "model.pt2")
    loaded = torch.export.load(tmp_path / "model.pt2").module()
    for sizes in ((2, 9, 4), (5, 31, 3), (1, 2, 2), (2, 64, 64)):
        inputs = decoding_inputs(*sizes) | {"use_cache": False}
        torch.testing.assert_close(loaded(**inputs).logits, model(**inputs).logits, rtol=0, atol=1e-5)


def test_sinusoids_of_an_exported_model_reach_as_far_as_its_configuration(saved):
    model, folder = saved
    longer = AutoModelForSeq2SeqLM.from_pretrained(folder, max_position_embeddings=512)
    short, inputs = make_batch(3, 9), make_batch(2, 300)
    del short["labels"], inputs["labels"]
    program = torch.export.export(longer.get_encoder(), (), short, dynamic_shapes=export_shapes(512))
    found = program.module()(**inputs).last_hidden_state
    torch.testing.assert_close(found, model.get_encoder()(**inputs).last_hidden_state, rtol=0, atol=1e-5)


@pytest.mark.fresh
def test_executorch_recipe_decodes_step_by_step_with_a_static_cache():
    model = make_model()
    recipe = Seq2SeqLMExportableModule(model, batch_size=1, max_hidden_seq_length=64, max_cache_length=16)
    recipe.export()
    encode, step = recipe.exported_encoder.module(), recipe.exported_decoder.module()
    for source in (make_batch(1, 6)["input_ids"], make_batch(1, 13)["input_ids"]):
        states, target = encode(source), [model.config.decoder_start_token_id]
        for position in range(6):
            logits = step(torch.tensor([target[-1:]]), states, torch.tensor([position]))[0, -1]
            expected = model(input_ids=source, decoder_input_ids=torch.tensor([target])).logits[0, -1]
            torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)
            target.append(int(expected.argmax()))


def whole(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def compare_with_one_process(model, alone, plan: str) -> dict:
    """Give the largest differences of logits, losses and gradients, and whether both translate alike."""
    inputs, note = make_batch(), {}
    with torch.no_grad():
        note["logits"] = (whole(model(**inputs).logits) - alone(**inputs).logits).abs().max().item()
    for settings in ({}, {"label_smoothing": 0.1, "skip_logits": True}):
        for one in (model.train(), alone.train()):
            one.zero_grad()
        # The loss first: where the model is sharded, the gradients of a pass that is running are not those to clear.
        loss, expected = whole(model(**inputs, **settings).loss), alone(**inputs, **settings).loss
        loss.backward()
        expected.backward()
        note[f"loss {len(settings)}"] = (loss - expected).abs().item()
        pairs = zip(model.parameters(), alone.parameters(), strict=True)
        differences = [(whole(own.grad) - other.grad).abs().max().item() for own, other in pairs]
        note[f"gradient {len(settings)}"] = max(differences)
    model.eval()
    alone.eval()
    if plan == "fsdp_size":
        # Without it the encoder, which `generate` calls by itself, would not find the embedding gathered.
        register_fsdp_forward_method(model, "generate")
    note["same"] = [translations(model, **more) == translations(alone, **more) for more in
                    ({}, {"num_beams": 1}, {"num_beams": 1, "cache_implementation": "static"})]  # fmt: skip
    return note


def in_two_processes(folder: Path):
    """What each of the two processes runs."""
    torch.set_num_threads(1)
    rank, notes = int(os.environ["RANK"]), {}
    for name in ("tied", "untied", "separate"):
        alone = AutoModelForSeq2SeqLM.from_pretrained(folder / name)
        for plan in ("tp_size", "fsdp_size"):
            settings = DistributedConfig(**{plan: 2})
            model = AutoModelForSeq2SeqLM.from_pretrained(folder / name, distributed_config=settings)
            parts = [getattr(parameter, "to_local", lambda own=parameter: own)() for parameter in model.parameters()]
            note = {"share": sum(part.numel() for part in parts) / sum(p.numel() for p in alone.parameters())}
            notes[f"{name} {plan}"] = note | compare_with_one_process(model, alone, plan)
            model.save_pretrained(folder / f"{name}-{plan}")
    (folder / f"process{rank}.json").write_text(json.dumps(notes))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """Tensor-parallel and sharded models beside the same model in one process."""
    folder = tmp_path_factory.mktemp("parallel")
    make_model().save_pretrained(folder / "tied")
    make_model(tie_word_embeddings=False, attention_bias=True, lm_head_bias=True).save_pretrained(folder / "untied")
    make_model(source_vocab_size=47).save_pretrained(folder / "separate")
    done = run_launched("cpu.yaml", lambda: in_two_processes(folder), timeout=600)
    assert done.returncode == 0, done.errors[-4000:]
    return folder, [json.loads((folder / f"process{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.distributed
@pytest.mark.fresh
@pytest.mark.timeout(700)
@pytest.mark.parametrize("name", ["tied", "untied", "separate"])
@pytest.mark.parametrize("plan", ["tp_size", "fsdp_size"])
def test_plans_for_two_devices_give_what_one_gives(two_processes, name, plan):
    folder, notes = two_processes
    for note in (notes[0][f"{name} {plan}"], notes[1][f"{name} {plan}"]):
        # Half of everything; tensor parallelism leaves the small LayerNorms whole.
        assert note.pop("share") < 0.54
        assert note.pop("same") == [True, True, True]
        assert max(note.values()) < 1e-5, note
    again = AutoModelForSeq2SeqLM.from_pretrained(folder / f"{name}-{plan}")
    assert_same_model(again, AutoModelForSeq2SeqLM.from_pretrained(folder / name))


@pytest.mark.parametrize("family", [*FAMILIES, "separate"])
def test_the_tensor_parallel_plan_names_every_matrix(family):
    model = make_model(source_vocab_size=47) if family == "separate" else make_model(family)
    rules = {rule.replace(".*.", ".0.") for rule in model.tp_plan}
    named = dict(model.named_modules())
    assert rules <= named.keys()
    matrices = {name for name, module in named.items() if isinstance(module, (nn.Linear, nn.Embedding))}
    assert {name for name in matrices if ".layers." not in name or ".layers.0." in name} == rules
    assert set(model.fsdp_plan) == {f"{name.removesuffix('.0')}.*" for name in named if name.endswith(".layers.0")}


def one_stream_attention(module, query, key, value, attention_mask, attention_instances=None, scaling=None, **kwargs):
    """What vLLM's own attention does: all requests are in one row, [1, H, T, K], and it knows where each begins."""
    assert attention_mask is None and query.shape[0] == 1
    lengths, outputs = attention_instances[module.layer_idx], []
    pieces = [tensor.split(lengths, dim=2) for tensor in (query, key, value)]
    for one_query, one_key, one_value in zip(*pieces, strict=True):
        outputs.append(
            nn.functional.scaled_dot_product_attention(
                one_query, one_key, one_value, is_causal=module.is_causal, scale=scaling
            )
        )
    return torch.cat(outputs, dim=2).transpose(1, 2), None


@pytest.mark.parametrize("family", ["VaswaniForCausalLM", "VaswaniForMaskedLM"])
def test_requests_in_one_row_are_read_as_vllm_calls_the_bare_model(family, monkeypatch):
    model = make_model(family, attention_bias=True).model
    texts = [make_batch(1, length, 2)["input_ids"] for length in (6, 1, 9)]
    lengths = [text.shape[1] for text in texts]
    with torch.no_grad():
        expected = torch.cat([model(text).last_hidden_state for text in texts], dim=1)
        monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, "one_stream", one_stream_attention)
        model.config._attn_implementation = "one_stream"
        outputs = model(
            input_ids=torch.cat(texts, dim=1),
            inputs_embeds=None,
            use_cache=False,
            position_ids=torch.cat([torch.arange(length) for length in lengths])[None],
            attention_instances=dict.fromkeys(range(2), lengths),
            return_dict=False,
        )
    torch.testing.assert_close(outputs[0], expected, rtol=0, atol=1e-5)


# PEFT asks transformers for a name that transformers 5.23 deprecates.
PEFT_WARNINGS = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
ADAPTERS = {
    "lora": ("LoraConfig", {"target_modules": ["q_proj", "v_proj"], "r": 4}, 2 * (2 + 2 * 3)),
    "all-linear": ("LoraConfig", {"target_modules": "all-linear", "r": 4}, 6 * 2 + 10 * 3),
    "dora": ("LoraConfig", {"target_modules": "all-linear", "r": 4, "use_dora": True}, 6 * 2 + 10 * 3),
    "ia3": ("IA3Config", {"target_modules": ["k_proj", "v_proj", "fc2"], "feedforward_modules": ["fc2"]},
            3 * 2 + 5 * 3),
}  # fmt: skip


@PEFT_WARNINGS
@pytest.mark.parametrize("name", ADAPTERS)
def test_adapters_train_save_load_and_merge(name, saved, tmp_path):
    peft = pytest.importorskip("peft")
    kind, settings, layers = ADAPTERS[name]
    base, folder = saved
    model = peft.get_peft_model(
        AutoModelForSeq2SeqLM.from_pretrained(folder), getattr(peft, kind)(task_type="SEQ_2_SEQ_LM", **settings)
    )
    assert sum(hasattr(module, "merge") for module in model.base_model.model.modules()) == layers
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer, losses = torch.optim.AdamW(trained, lr=1e-2), []
    for _ in range(6):
        loss = model(**make_batch(), skip_logits=True).loss
        loss.backward()
        assert all(parameter.grad is not None for parameter in trained)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.95 * losses[0]
    model.eval().save_pretrained(tmp_path / "adapter")
    again = peft.PeftModel.from_pretrained(AutoModelForSeq2SeqLM.from_pretrained(folder), tmp_path / "adapter").eval()
    assert_same_model(again, model)
    with model.disable_adapter():
        torch.testing.assert_close(model(**make_batch()).logits, base(**make_batch()).logits)
    merged = again.merge_and_unload()
    assert type(merged) is VaswaniForConditionalGeneration
    merged.save_pretrained(tmp_path / "merged")
    assert_same_model(AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "merged"), model, tolerance=1e-5)


@PEFT_WARNINGS
@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning")
def test_an_adapter_on_the_output_layer_is_trained_without_logits():
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(task_type="SEQ_2_SEQ_LM", r=4, target_modules=["lm_head"], init_lora_weights=False)
    model = peft.get_peft_model(make_model(), config)
    losses = [model(**make_batch(), skip_logits=skip_logits).loss for skip_logits in (False, True)]
    torch.testing.assert_close(losses[1], losses[0])
    losses[1].backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters() if parameter.requires_grad)


@PEFT_WARNINGS
@pytest.mark.parametrize("kind", ["PromptTuningConfig", "PromptEncoderConfig"])
def test_prompts_are_trained_and_loaded(kind, saved, tmp_path):
    peft = pytest.importorskip("peft")
    _, folder = saved
    config = getattr(peft, kind)(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=4)
    model = peft.get_peft_model(AutoModelForSeq2SeqLM.from_pretrained(folder), config)
    model(**make_batch()).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)
    model.eval().save_pretrained(tmp_path / "prompt")
    again = peft.PeftModel.from_pretrained(AutoModelForSeq2SeqLM.from_pretrained(folder), tmp_path / "prompt").eval()
    assert_same_model(again, model)
