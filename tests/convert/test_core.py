"""Key maps, channel permutations and the check of a conversion: what is missing, left over or different is named."""

import os
import pickle

import pytest
import torch
from torch import nn

from tests.helpers.foreign_models import marian
from vaswani_tx.configuration_vaswani import VaswaniConfig
from vaswani_tx.convert import ConversionError, Converted, KeyMap, Row
from vaswani_tx.convert.channels import interleaving, permute_channels
from vaswani_tx.convert.core import complete_state, transform
from vaswani_tx.convert.marian_hf import KEYS, read
from vaswani_tx.convert.weights import load_torch, read_file
from vaswani_tx.convert.writing import write
from vaswani_tx.modeling_vaswani import VaswaniForConditionalGeneration


def test_rows_take_numbers_parts_and_several_weights():
    source = {
        "h.0.qkv": torch.arange(12.0).view(2, 6),
        "h.11.qkv": torch.ones(2, 6),
        "p": torch.ones(3),
        "t": torch.ones(3),
    }
    keys = KeyMap(
        [
            Row("h.{i}.qkv", "layers.{i}.k", "transpose, split3:1"),
            Row("h.{i}.qkv", "layers.{i}.q", "transpose, split3:0"),
            (("p", "t"), "positions", torch.add),
            Row("none", "nothing", optional=True),
        ],
        ignored=[],
    )
    state, used, ignored = keys.apply(source)
    assert state["layers.0.k"].tolist() == [[2, 8], [3, 9]] and state["layers.0.q"].tolist() == [[0, 6], [1, 7]]
    assert state["layers.11.k"].shape == (2, 2) and state["positions"].tolist() == [2, 2, 2]
    assert used == set(source) and not ignored


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"a": torch.ones(2)}, "no weight 'b'"),
        ({"b": torch.ones(2)}, "no weight 'a'"),
        ({"a": torch.ones(2), "b": torch.ones(3), "c.0": torch.ones(1)}, "no place in the converted model: c.0"),
    ],
)
def test_missing_and_left_over_weights_are_named(source, message):
    keys = KeyMap([("a", "x"), ("b", "y")], ignored=[("d.{i}", "not needed")])
    with pytest.raises(ConversionError, match=message):
        keys.apply(source)
    _, used, ignored = keys.apply({"a": torch.ones(1), "b": torch.ones(1), "d.3": torch.ones(1)})
    assert used == {"a", "b"} and ignored == {"d.3": "not needed"}


def test_a_transform_that_does_not_suit_names_weight_and_shape():
    with pytest.raises(ConversionError, match=r"a of shape \[4\] cannot become 'x' by 'split3:0'"):
        KeyMap([("a", "x", "split3:0")]).apply({"a": torch.ones(4)})
    with pytest.raises(ValueError, match="no transform 'turn'"):
        transform("turn")
    with pytest.raises(ConversionError, match="two rows of the key map give 'x'"):
        KeyMap([("a", "x"), ("b", "x")]).apply({"a": torch.ones(1), "b": torch.ones(1)})


def small(**fields):
    return VaswaniConfig.from_preset("tiny", vocab_size=11, d_model=8, num_heads=2, d_ff=12, encoder_layers=1, **fields)


def test_states_that_are_incomplete_or_contradict_are_refused():
    config = small(decoder_layers=1)
    state = VaswaniForConditionalGeneration(config).state_dict()
    assert set(complete_state(Converted(config, {"model.shared.weight": torch.ones(11, 8)} | state))) == set(state)
    lost = {name: value for name, value in state.items() if "cross_attn.k_proj" not in name}
    with pytest.raises(ConversionError, match=r"gives no model.decoder.layers.0.cross_attn.k_proj.weight"):
        complete_state(Converted(config, lost))
    with pytest.raises(ConversionError, match="are one weight"):
        complete_state(Converted(config, state | {"lm_head.weight": torch.zeros(11, 8)}))
    with pytest.raises(ConversionError, match=r"has shape \[11, 9\] in the source, but \[11, 8\]"):
        complete_state(
            Converted(small(decoder_layers=1, tie_word_embeddings=False), state | {"lm_head.weight": torch.ones(11, 9)})
        )
    with pytest.raises(ConversionError, match="no weights odd"):
        complete_state(Converted(config, state | {"odd": torch.ones(1)}))
    with pytest.raises(ConversionError, match="not finite"):
        broken = {**state, "model.encoder.layers.0.feed_forward.fc1.bias": torch.full((12,), torch.nan)}
        complete_state(Converted(config, broken))


def test_permuted_channels_compute_the_same_where_no_position_tells_channels_apart():
    torch.manual_seed(0)
    fields = {"decoder_layers": 2, "position_embedding": "learned", "embedding_norm": True, "attention_bias": True}
    model = VaswaniForConditionalGeneration(small(**fields, lm_head_bias=True, final_layer_norm=True)).eval()
    for weight in model.parameters():
        nn.init.normal_(weight, std=0.3)
    other = VaswaniForConditionalGeneration(model.config).eval()
    order = interleaving(8)
    assert order.tolist() == [0, 4, 1, 5, 2, 6, 3, 7]
    other.load_state_dict(permute_channels(model.state_dict(), order))
    ids = torch.randint(0, 11, (2, 5))
    with torch.no_grad():
        torch.testing.assert_close(other(ids, decoder_input_ids=ids).logits, model(ids, decoder_input_ids=ids).logits)
    with pytest.raises(ConversionError, match="layout is unknown"):
        permute_channels({"model.gate.weight": torch.ones(8)}, order)


def test_a_wrong_row_is_found_by_the_check_and_nothing_is_written(tmp_path, monkeypatch):
    marian().save_pretrained(tmp_path / "from")
    swapped = {"q_proj": "k_proj", "k_proj": "q_proj"}
    rows = []
    for row in KEYS.rows:
        parts = row.ours.split(".")
        ours = ".".join(swapped.get(part, part) for part in parts) if "encoder.layers" in row.ours else row.ours
        rows.append(Row(row.source, ours, row.transform, row.optional))
    monkeypatch.setattr("vaswani_tx.convert.marian_hf.KEYS", KeyMap(rows, KEYS.ignored))
    with pytest.raises(ConversionError, match="is not the original: logits differ"):
        write(read(tmp_path / "from"), tmp_path / "to")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["from"]


class Evil:
    """An object whose unpickling would run code."""

    def __reduce__(self):
        return (print, ("run",))


class Shell:
    """An object whose unpickling would run a program, of a module that torch blocks altogether."""

    def __reduce__(self):
        return (os.system, ("echo run",))


def test_files_that_would_run_code_are_refused(tmp_path, capsys):
    torch.save({"a": torch.ones(1), "b": Evil()}, tmp_path / "evil.pt")
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ConversionError, match="is refused: it holds more than tensors"):
        load_torch(tmp_path / "evil.pt")
    with pytest.raises(ConversionError, match=r"is refused|is damaged"):
        load_torch(tmp_path / "plain.pkl")
    torch.save({"a": Shell()}, tmp_path / "shell.pt")
    with pytest.raises(ConversionError, match=r"\(unsupported GLOBAL \w+\.system"):  # no advice to load it all the same
        load_torch(tmp_path / "shell.pt")
    (tmp_path / "noise.bin").write_bytes(b"noise")
    with pytest.raises(ConversionError, match=r"noise.bin"):
        load_torch(tmp_path / "noise.bin")
    torch.save([torch.ones(1)], tmp_path / "list.bin")
    with pytest.raises(ConversionError, match="no state dict"):
        read_file(tmp_path / "list.bin")
    assert "run" not in capsys.readouterr().out
