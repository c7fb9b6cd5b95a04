"""Loaded and saved again, a folder is the same: no code file is lost, no trace of loading comes to it."""

import pytest
import torch
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer, GenerationConfig
from transformers.dynamic_module_utils import get_relative_import_files

from tests.hub.test_saving import SENTENCES, ask_stranger
from vaswani_tx import (
    VaswaniConfig,
    VaswaniDecoderConfig,
    VaswaniEncoderConfig,
    VaswaniForCausalLM,
    VaswaniForConditionalGeneration,
    VaswaniForImageClassification,
    VaswaniForMaskedLM,
    VaswaniImageProcessor,
    VaswaniTokenizer,
    VaswaniVisionConfig,
)
from vaswani_tx.hub.families import CODE_FOLDER, FAMILIES
from vaswani_tx.hub.saving import save_with_code

# Saves each model again three times, the second time by a Trainer, and returns the files that each save wrote.
SAVE_AGAIN = """
from hashlib import sha256
from pathlib import Path
from transformers import AutoImageProcessor, AutoModelForCausalLM, AutoModelForImageClassification
from transformers import AutoModelForMaskedLM, Trainer, TrainingArguments
trust, said = {"trust_remote_code": True}, {}
for family, auto in {
    "vaswani": AutoModelForSeq2SeqLM,
    "vaswani_encoder": AutoModelForMaskedLM,
    "vaswani_decoder": AutoModelForCausalLM,
    "vaswani_vision": AutoModelForImageClassification,
}.items():
    source, said[family] = Path(name) / family, []
    for count in range(4):
        files = sorted(path for path in source.iterdir() if path.is_file())
        said[family].append({path.name: sha256(path.read_bytes()).hexdigest() for path in files})
        model = auto.from_pretrained(source, **trust)
        loader = AutoImageProcessor if family == "vaswani_vision" else AutoTokenizer
        processor = loader.from_pretrained(source, **trust)
        source = Path(made) / f"{family}{count}"
        if count == 1:
            use_cache = getattr(model.config, "use_cache", None)
            arguments = TrainingArguments(str(source), report_to=[], use_cpu=True)
            trainer = Trainer(model, arguments, processing_class=processor)
            if use_cache is None:
                del model.config.use_cache
            else:
                model.config.use_cache = use_cache  # Trainer switches it off
            trainer.save_model()
            (source / "training_args.bin").unlink()
        else:
            model.save_pretrained(source)
            processor.save_pretrained(source)
translate = pipeline("translation", model=str(Path(made) / "vaswani3"), max_new_tokens=3, **trust)
translate.save_pretrained(Path(made) / "pipeline")
again = pipeline("translation", model=str(Path(made) / "pipeline"), max_new_tokens=3, **trust)
assert again("A dog") == translate("A dog")
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """One saved folder a family, without code."""
    torch.manual_seed(1)
    place = tmp_path_factory.mktemp("families")
    tokenizer = VaswaniTokenizer.train(iter(SENTENCES * 3), vocab_size=300, show_progress=False, mask_token="<mask>")
    chat = tokenizer.for_continuation()
    chat.prepare_for_chat()
    text = {"d_model": 16, "d_ff": 32, "num_heads": 2}
    sizes = {**text, "num_hidden_layers": 1}
    image = VaswaniVisionConfig(image_size=8, patch_size=4, **sizes)
    both = VaswaniConfig(vocab_size=len(tokenizer), **text, encoder_layers=1, decoder_layers=1)
    for model, processor in (
        (VaswaniForConditionalGeneration(both), tokenizer),
        (VaswaniForMaskedLM(VaswaniEncoderConfig(vocab_size=len(tokenizer), **sizes)), tokenizer),
        (VaswaniForCausalLM(VaswaniDecoderConfig(vocab_size=len(chat), **sizes)), chat),
        (VaswaniForImageClassification(image), VaswaniImageProcessor.from_config(image)),
    ):
        model.save_pretrained(place / model.config.model_type)
        processor.save_pretrained(place / model.config.model_type)
    return place


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_loaded_and_saved_is_the_same(folders, family, tmp_path):
    source, options = folders / family, {"cache_dir": str(tmp_path), "token": "hf_secret", "revision": "main"}
    loader = AutoImageProcessor if family == "vaswani_vision" else AutoTokenizer
    for count, given in enumerate(({}, {"local_files_only": True}, {**options, "local_files_only": False})):
        again = tmp_path / str(count)
        AutoModel.from_pretrained(source, **given)  # its head is lost, so only its loading is tried
        loader.from_pretrained(source, **given).save_pretrained(again)
        whole = {
            "vaswani": VaswaniForConditionalGeneration,
            "vaswani_encoder": VaswaniForMaskedLM,
            "vaswani_decoder": VaswaniForCausalLM,
            "vaswani_vision": VaswaniForImageClassification,
        }[family]
        whole.from_pretrained(source, **given).save_pretrained(again)
        assert contents(again) == contents(source)
        if (source / "generation_config.json").exists():
            GenerationConfig.from_pretrained(source, **given).save_pretrained(again)
            assert contents(again) == contents(source)
        source = again


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_that_carries_its_code_is_saved_with_its_pipelines(family):
    """transformers copies what the files of model, configuration and processor import: here, all of the family's."""
    table = {name: value for part in FAMILIES[family].auto_map.values() for name, value in part.items()}
    heads = [name for name in table if name.startswith("AutoModelFor")]
    files = set()
    for name in ("AutoConfig", "AutoTokenizer", "AutoImageProcessor", heads[0]):
        reference = next(iter(filter(None, [table.get(name)])), None)
        reference = next(filter(None, reference)) if isinstance(reference, list) else reference
        if reference is not None:
            module = CODE_FOLDER / f"{reference.partition('.')[0]}.py"
            files |= {module.name, *(path.rpartition("/")[2] for path in get_relative_import_files(module))}
    assert files == set(FAMILIES[family].code)


@pytest.mark.fresh
def test_without_the_package_every_save_has_all_code(folders, tmp_path):
    (tmp_path / "coded").mkdir()
    for family in FAMILIES:
        save_with_code(folders / family, tmp_path / "coded" / family)
    said, _ = ask_stranger(SAVE_AGAIN, tmp_path, tmp_path / "coded", "-", tmp_path / "again")
    for family, (first, *later) in said.items():
        assert {name for name in first if name.endswith(".py")} == set(FAMILIES[family].code)
        first.pop("README.md")  # is not transformers' to save
        assert later == [first] * 3, family
