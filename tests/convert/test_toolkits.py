"""fairseq, OpenNMT-py, JoeyNMT and tensor2tensor: what is converted equals plain passes over the checkpoints."""

import json

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from tests.convert import plain_toolkits as plain
from tests.convert.plain_bundle import write_bundle
from vaswani_tx.cli import main
from vaswani_tx.convert import ConversionError, convert

LOGITS = 1e-5


def dictionary(path, size):
    path.write_text("".join(f"w{index} {9 - index % 7}\n" for index in range(size - 4)), encoding="utf-8")


def batch(source, target, start, first=4):
    torch.manual_seed(1)
    decoder = torch.cat((torch.full((2, 1), start), torch.randint(first, target, (2, 5))), dim=1)
    return torch.randint(first, source, (2, 7)), decoder


def greedy(logits, start, never, steps=6):
    """Continue from the start token with the most probable one each time, never `never`, and stop at no end."""
    tokens = torch.full((1, 1), start)
    for _ in range(steps):
        chosen = logits(tokens)[:, -1].index_fill(1, torch.tensor(never), -torch.inf).argmax(-1, keepdim=True)
        tokens = torch.cat((tokens, chosen), dim=1)
    return tokens[0].tolist()


def check_equal(folder, source, decoder, logits, pad, eos):
    """Compare the logits of a folder's model, and its greedy search, with a function of source and target ids."""
    model = AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    mask = torch.ones_like(source)
    with torch.no_grad():
        found = model(input_ids=source, attention_mask=mask, decoder_input_ids=decoder).logits
    assert (found.double() - logits(source, decoder)).abs().max() < LOGITS
    one, start = source[:1], int(decoder[0, 0])
    wanted = greedy(lambda tokens: logits(one, tokens), start, [pad, eos])
    generated = model.generate(
        input_ids=one,
        attention_mask=mask[:1],
        suppress_tokens=[pad, eos],
        max_new_tokens=6,
        num_beams=1,
        do_sample=False,
    )
    assert generated[0].tolist()[: len(wanted)] == wanted
    return model


def fairseq_folder(folder, weights=None, is_lm=False, source=19, **changes):
    """Write a checkpoint with its dictionaries; return it."""
    settings = plain.fairseq_settings(**changes)
    source = 23 if settings["share_all_embeddings"] else source
    checkpoint = plain.fairseq_checkpoint(settings, weights or plain.fairseq_weights(settings, source, 23, is_lm))
    folder.mkdir()
    torch.save(checkpoint, folder / "model.pt")
    dictionary(folder / ("dict.txt" if is_lm else "dict.de.txt"), 23 if is_lm else source)
    dictionary(folder / "dict.en.txt", 23)
    return checkpoint


PRE = {"encoder_normalize_before": True, "decoder_normalize_before": True}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {**PRE, "activation_fn": "gelu", "share_decoder_input_output_embed": False},
        {"encoder_learned_pos": True, "decoder_learned_pos": True, "layernorm_embedding": True},
        {"share_all_embeddings": True, "no_scale_embedding": True},
    ],
    ids=["post", "pre", "learned", "shared"],
)
def test_fairseq_gives_its_logits_and_tokens(tmp_path, changes):
    checkpoint = fairseq_folder(tmp_path / "theirs", **changes)
    report = convert(tmp_path / "theirs", tmp_path / "ours")
    assert report.format.startswith("fairseq") and "decoder.version" in report.ignored
    source, decoder = batch(19, 23, start=2)
    model = check_equal(tmp_path / "ours", source, decoder, lambda s, t: plain.fairseq_logits(checkpoint, s, t), 1, 2)
    assert model.config.position_offset == (0 if changes.get("encoder_learned_pos") else 2)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "ours")
    assert tokenizer("w1 w99 w2").input_ids == [5, 3, 6, 2] and tokenizer.decode([6, 7]) == "w2 w3"
    assert tokenizer.has_target == (not changes.get("share_all_embeddings"))


def test_fairseqs_language_model_gives_its_logits(tmp_path):
    checkpoint = fairseq_folder(
        tmp_path / "theirs", is_lm=True, task="language_modeling", decoder_normalize_before=True
    )
    convert(tmp_path / "theirs", tmp_path / "ours")
    _, tokens = batch(19, 23, start=2)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "ours").eval()
    with torch.no_grad():
        found = model(input_ids=tokens).logits
    assert (found.double() - plain.fairseq_logits(checkpoint, None, tokens)).abs().max() < LOGITS
    assert AutoTokenizer.from_pretrained(tmp_path / "ours")("w1 w2").input_ids == [2, 5, 6]


def test_fairseqs_older_names_and_newer_settings_are_read(tmp_path):
    settings = plain.fairseq_settings()
    present = plain.fairseq_weights(settings, 19, 23)
    older = dict(present)
    for stack, count in (("encoder", 2), ("decoder", 3)):
        norms = ["self_attn_layer_norm", "final_layer_norm"]
        norms[1:1] = ["encoder_attn_layer_norm"] if stack == "decoder" else []
        for index in range(count):
            layer = f"{stack}.layers.{index}"
            for end in ("weight", "bias"):
                parts = [older.pop(f"{layer}.self_attn.{part}_proj.{end}") for part in "qkv"]
                older[f"{layer}.self_attn.in_proj_{end}"] = torch.cat(parts)
                for number, name in enumerate(norms):
                    older[f"{layer}.layer_norms.{number}.{end}"] = older.pop(f"{layer}.{name}.{end}")
    checkpoint = fairseq_folder(tmp_path / "older", weights=older)
    convert(tmp_path / "older", tmp_path / "from-older")
    # Since version 0.10 the settings are tables: of the model, of the task, of the tokenizer.
    cfg = {
        "model": vars(checkpoint["args"]),
        "task": {"source_lang": "de"},
        "bpe": None,
        "tokenizer": {"_name": "moses"},
    }
    fairseq_folder(tmp_path / "newer", weights=present)
    torch.save({"args": None, "cfg": cfg, "model": present}, tmp_path / "newer" / "model.pt")
    report = convert(tmp_path / "newer", tmp_path / "from-newer")
    assert any("Moses" in note for note in report.notes)
    source, decoder = batch(19, 23, start=2)
    for folder in ("from-older", "from-newer"):
        model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / folder).eval()
        with torch.no_grad():
            found = model(input_ids=source, decoder_input_ids=decoder).logits
        wanted = plain.fairseq_logits(plain.fairseq_checkpoint(settings, present), source, decoder)
        assert (found.double() - wanted).abs().max() < LOGITS


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"adaptive_softmax_cutoff": "10,20"}, "an adaptive softmax"),
        ({"cross_self_attention": True}, "attention to source and target at once"),
        ({"decoder_normalize_before": True}, "differs between the stacks|only one of the stacks"),
        ({"decoder_attention_heads": 2}, r"encoder_attention_heads 4, decoder_attention_heads 2"),
        ({"activation_fn": "relu_squared"}, "relu_squared"),
    ],
)
def test_what_fairseq_has_beyond_this_model_is_refused(tmp_path, changes, message):
    settings = plain.fairseq_settings()
    fairseq_folder(tmp_path / "theirs", weights=plain.fairseq_weights(settings, 19, 23), **changes)
    with pytest.raises(ConversionError, match=message):
        convert(tmp_path / "theirs", tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


def test_a_dictionary_of_another_model_is_refused_on_the_command_line(tmp_path, capsys):
    fairseq_folder(tmp_path / "theirs")
    dictionary(tmp_path / "other.txt", 40)
    arguments = ["--source-vocabulary", str(tmp_path / "other.txt")]
    assert main(["convert", str(tmp_path / "theirs"), str(tmp_path / "ours"), *arguments]) == 2
    assert "other.txt: has 40 symbols, but the model embeds 19" in capsys.readouterr().err
    assert not (tmp_path / "ours").exists()


@pytest.mark.parametrize("options", [{}, {"shared": True, "pos_ffn_activation_fn": "relu"}], ids=["separate", "shared"])
def test_opennmt_py_gives_its_logits_and_tokens(tmp_path, options):
    checkpoint = plain.onmt_checkpoint(**options)
    torch.save(checkpoint, tmp_path / "model_step_100.pt")
    report = convert(tmp_path / "model_step_100.pt", tmp_path / "ours")
    assert report.format.startswith("opennmt-py") and "encoder.embeddings.make_embedding.pe.pe" in report.ignored
    source, decoder = batch(19, 23, start=2)
    check_equal(tmp_path / "ours", source, decoder, lambda s, t: plain.onmt_logits(checkpoint, s, t), 1, 3)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "ours")
    word = "w1" if options else "s1"
    assert tokenizer(f"{word} zz").input_ids == [5, 0]  # no </s> after a source
    assert tokenizer(text_target="w1 zz").input_ids == [5, 0, 3] and tokenizer.decode([5, 6]) == "w1 w2"


def test_opennmt_pys_other_sinusoids_and_missing_biases(tmp_path):
    checkpoint = plain.onmt_checkpoint(position_encoding_type="SinusoidalConcat")
    kept = {}
    for name, value in checkpoint["model"].items():
        if name.endswith("pe.pe"):
            value = plain.halves(50, 16).float()[:, None]
        if not (".linear_" in name or "final_linear" in name) or name.endswith("weight"):
            kept[name] = value
    checkpoint["model"] = kept
    torch.save(checkpoint, tmp_path / "model_step_100.pt")
    convert(tmp_path / "model_step_100.pt", tmp_path / "ours")
    source, decoder = batch(19, 23, start=2)
    wrong = plain.onmt_logits(checkpoint, source, decoder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plain, "interleaved", plain.halves)
        wanted = plain.onmt_logits(checkpoint, source, decoder)
    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "ours").eval()
    with torch.no_grad():
        found = model(input_ids=source, decoder_input_ids=decoder).logits
    assert (found.double() - wanted).abs().max() < LOGITS < (found.double() - wrong).abs().max()
    assert not model.config.attention_bias


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_relative_positions": 20}, "relative, rotary or linear positions"),
        ({"copy_attn": True}, "copying"),
        ({"self_attn_type": "average"}, "another attention"),
        ({"position_encoding": False}, "no positions"),
        ({"position_encoding_type": "SinusoidalConcat"}, "holds other positions"),
    ],
)
def test_what_opennmt_py_has_beyond_this_model_is_refused(tmp_path, options, message):
    torch.save(plain.onmt_checkpoint(**options), tmp_path / "model_step_1.pt")
    with pytest.raises(ConversionError, match=message):
        convert(tmp_path / "model_step_1.pt", tmp_path / "ours")


def test_opennmt_pys_vocabularies_can_be_given_as_files(tmp_path):
    checkpoint = plain.onmt_checkpoint()
    vocabulary = checkpoint.pop("vocab")
    torch.save(checkpoint, tmp_path / "model_step_1.pt")
    with pytest.raises(ConversionError, match="--source-vocabulary"):
        convert(tmp_path / "model_step_1.pt", tmp_path / "ours")
    for side in ("src", "tgt"):
        (tmp_path / side).write_text("\n".join(vocabulary[side]) + "\n")
    given = {"source_vocabulary": tmp_path / "src", "target_vocabulary": tmp_path / "tgt"}
    convert(tmp_path / "model_step_1.pt", tmp_path / "ours", **given)
    assert AutoTokenizer.from_pretrained(tmp_path / "ours")("s2").input_ids == [6]


def joey_folder(folder, pre, tied=True, scale=True, **layer):
    weights = plain.joey_weights(19, 23, pre, tied)
    folder.mkdir()
    torch.save({"model_state": weights, "scheduler_state": None}, folder / "100.ckpt")
    sizes = {"type": "transformer", "num_heads": 4, "embeddings": {"embedding_dim": 16, "scale": scale}, **layer}
    config = {"data": {"src": {"lang": "de"}, "trg": {"lang": "en"}}, "model": {"encoder": sizes, "decoder": sizes}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    for side, size in (("src", 19), ("trg", 23)):
        tokens = ["<unk>", "<pad>", "<s>", "</s>", *(f"w{index}" for index in range(size - 4))]
        (folder / f"{side}_vocab.txt").write_text("\n".join(tokens) + "\n")
    return weights


@pytest.mark.parametrize(
    ("pre", "tied", "scale", "layer"),
    [(True, True, True, {}), (False, False, False, {"layer_norm": "post"})],
    ids=["version1", "post"],
)
def test_joeynmt_gives_its_logits_and_tokens(tmp_path, pre, tied, scale, layer):
    weights = joey_folder(tmp_path / "theirs", pre, tied, scale, **layer)
    report = convert(tmp_path / "theirs", tmp_path / "ours")
    assert report.format.startswith("joeynmt")
    source, decoder = batch(19, 23, start=2)
    check_equal(tmp_path / "ours", source, decoder, lambda s, t: plain.joey_logits(weights, pre, scale, s, t), 1, 3)
    assert AutoTokenizer.from_pretrained(tmp_path / "ours")("w1 zz").input_ids == [5, 0, 3]


def test_what_joeynmt_has_beyond_this_model_is_refused(tmp_path):
    joey_folder(tmp_path / "mixed", pre=False)
    with pytest.raises(ConversionError, match=r"norms are 'pre' in the encoder and 'post' in the decoder"):
        convert(tmp_path / "mixed", tmp_path / "ours")
    joey_folder(tmp_path / "deep", pre=True, alpha=1.2)
    with pytest.raises(ConversionError, match=r"alpha=1.2"):
        convert(tmp_path / "deep", tmp_path / "ours")


@pytest.mark.parametrize("pre", [True, False], ids=["base", "base_v1"])
def test_tensor2tensor_gives_its_logits_and_tokens(tmp_path, pre):
    weights = plain.t2t_weights(pre)
    (tmp_path / "theirs").mkdir()
    training = {
        "global_step": torch.tensor(250),
        "transformer/body/encoder/layer_0/ffn/conv1/bias/Adam": torch.ones(24),
    }
    write_bundle(tmp_path / "theirs" / "model.ckpt-250", weights | training)
    with pytest.raises(ConversionError, match="--hparams-set"):
        convert(tmp_path / "theirs", tmp_path / "ours", target_space_id=3)
    (tmp_path / "theirs" / "hparams.json").write_text(json.dumps({"num_heads": 4, "pos": "timing"}))
    with pytest.raises(ConversionError, match="--target-space-id"):
        convert(tmp_path / "theirs", tmp_path / "ours")
    report = convert(tmp_path / "theirs", tmp_path / "ours", target_space_id=3)
    assert sorted(report.ignored) == sorted(training) and report.used == len(weights)
    source, decoder = batch(23, 23, start=0, first=2)
    check_equal(tmp_path / "ours", source, decoder, lambda s, t: plain.t2t_logits(weights, pre, 3, s, t), 0, 1)


def test_what_tensor2tensor_has_beyond_this_model_is_refused(tmp_path):
    weights = plain.t2t_weights(True)
    write_bundle(tmp_path / "model.ckpt-1", weights)
    (tmp_path / "hparams.json").write_text(json.dumps({"num_heads": 4, "self_attention_type": "dot_product_relative"}))
    with pytest.raises(ConversionError, match="another attention"):
        convert(tmp_path, tmp_path / "ours", target_space_id=0)
    (tmp_path / "hparams.json").unlink()
    write_bundle(tmp_path / "model.ckpt-1", weights | {"resnet/conv/kernel": torch.ones(2)})
    with pytest.raises(ConversionError, match="'resnet/conv/kernel' is no weight"):
        convert(tmp_path / "model.ckpt-1.index", tmp_path / "ours", num_heads=4, target_space_id=0)
