"""The README.md of an exported folder: what it is, and programs that run it as they are."""

from typing import Any

_HEAD = """\
# {title}

A {kind} of the architecture of "Attention Is All You Need", {parameters:,} parameters, exported by vaswani-tx.

{notes}

## Run it

{usage}
"""
# By format and kind. The programs are run by the tests.
USAGE: dict[tuple[str, str], str] = {
    ("ctranslate2", "encoder-decoder"): """\
With `pip install ctranslate2 transformers tokenizers`, in this folder:

```python
import ctranslate2
from transformers import PreTrainedTokenizerFast

source = PreTrainedTokenizerFast(tokenizer_file="tokenizer.json")
target = PreTrainedTokenizerFast(tokenizer_file="{target_file}")
translator = ctranslate2.Translator(".", device="cpu")

tokens = [source.convert_ids_to_tokens(source("A dog runs.")["input_ids"])]
found = translator.translate_batch(tokens, beam_size=4, length_penalty=1, min_decoding_length=0)
ids = target.convert_tokens_to_ids(found[0].hypotheses[0])
print(target.decode(ids, skip_special_tokens=True).removeprefix(" "))
```

With vaswani-tx, which also has the paper's ranking and limits, the output is that of the model:

    vaswani-tx translate FOLDER --engine ctranslate2
""",
    ("onnx", "encoder-decoder"): """\
With `pip install onnxruntime transformers tokenizers numpy`, in this folder:

```python
import numpy
import onnxruntime
from transformers import PreTrainedTokenizerFast

source = PreTrainedTokenizerFast(tokenizer_file="tokenizer.json")
target = PreTrainedTokenizerFast(tokenizer_file="{target_file}")
encoder, first, later = (
    onnxruntime.InferenceSession(f"onnx/{name}{suffix}.onnx")
    for name in ("encoder_model", "decoder_model", "decoder_with_past_model")
)
ids = numpy.array([source("A dog runs.")["input_ids"]])
mask = numpy.ones_like(ids)
states = encoder.run(None, {"input_ids": ids, "attention_mask": mask})[0]

made, past = [{start}], {}
while made[-1] != {end} and len(made) < 60:
    given = {"input_ids": numpy.array([made[-1:]]), "encoder_attention_mask": mask}
    if past:
        run, given = later, {**given, **past}
    else:
        run, given = first, {**given, "encoder_hidden_states": states}
    logits, *present = run.run(None, given)
    names = [output.name.replace("present", "past_key_values") for output in run.get_outputs()[1:]]
    past |= dict(zip(names, present))
    made.append(int(logits[0, -1].argmax()))
print(target.decode(made[1:-1]).removeprefix(" "))
```

With vaswani-tx, which has beam search and the paper's ranking: `vaswani-tx translate FOLDER --engine onnx`. The names
are those of optimum and transformers.js, which runs `decoder_model_merged.onnx`.
""",
    ("onnx", "decoder"): """\
With `pip install onnxruntime transformers tokenizers numpy`, in this folder:

```python
import numpy
import onnxruntime
from transformers import PreTrainedTokenizerFast

tokenizer = PreTrainedTokenizerFast(tokenizer_file="tokenizer.json")
run = onnxruntime.InferenceSession("onnx/model{suffix}.onnx")
ids = numpy.array([tokenizer("A dog")["input_ids"]])
given = {"input_ids": ids, "attention_mask": numpy.ones_like(ids)}
for value in run.get_inputs()[2:]:  # nothing is cached yet
    given[value.name] = numpy.zeros((1, value.shape[1], 0, value.shape[3]), dtype=numpy.float32)
logits = run.run(None, given)[0]
print(tokenizer.decode([int(logits[0, -1].argmax())]))
```
""",
    ("onnx", "encoder"): """\
With `pip install onnxruntime transformers tokenizers numpy`, in this folder:

```python
import numpy
import onnxruntime
from transformers import PreTrainedTokenizerFast

tokenizer = PreTrainedTokenizerFast(tokenizer_file="tokenizer.json")
run = onnxruntime.InferenceSession("onnx/model{suffix}.onnx")
ids = numpy.array([tokenizer("A dog runs.")["input_ids"]])
print(run.run(None, {"input_ids": ids, "attention_mask": numpy.ones_like(ids)})[0].shape)
```
""",
    ("torch", "encoder-decoder"): """\
With `pip install torch transformers tokenizers`, in this folder:

```python
import torch
from transformers import PreTrainedTokenizerFast

source = PreTrainedTokenizerFast(tokenizer_file="tokenizer.json")
target = PreTrainedTokenizerFast(tokenizer_file="{target_file}")
encoder, first, later = (
    torch.export.load(f"{name}.pt2").module() for name in ("encoder_model", "decoder_model", "decoder_with_past_model")
)
ids = torch.tensor([source("A dog runs.")["input_ids"]])
mask = torch.ones_like(ids)
made = [{start}]
logits, *present = first(mask, torch.tensor([made]), encoder(ids, mask))
layers = range(len(present) // 4)
own = [present[4 * layer + place] for layer in layers for place in (0, 1)]
cross = [present[4 * layer + place] for layer in layers for place in (2, 3)]
while len(made) < 60:
    made.append(int(logits[0, -1].argmax()))
    if made[-1] == {end}:
        break
    past = [tensor for layer in layers for stack in (own, cross) for tensor in stack[2 * layer : 2 * layer + 2]]
    logits, *own = later(mask, torch.tensor([made[-1:]]), *past)
print(target.decode(made[1:-1]).removeprefix(" "))
```
""",
    ("torch", "decoder"): """\
In this folder: `torch.export.load("model.pt2").module()` takes the ids [B, T], the mask [B, P + T], and keys and values
[B, H, P, d_k] of each layer; P may be 0. It returns logits, and keys and values of the P + T positions.
""",
    ("torch", "encoder"): """\
In this folder: `torch.export.load("model.pt2").module()` takes ids and mask [B, S]; it returns what `config.json`
names.
""",
    ("marian", "encoder-decoder"): """\
With `pip install transformers torch`, in this folder:

```python
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

source = AutoTokenizer.from_pretrained(".")
target = AutoTokenizer.from_pretrained("{target_folder}")
model = AutoModelForSeq2SeqLM.from_pretrained(".")

inputs = source(["A dog runs."], return_tensors="pt", return_token_type_ids=False)
print(target.batch_decode(model.generate(**inputs), skip_special_tokens=True))
```
""",
    ("ctranslate2", "decoder"): """\
With `pip install ctranslate2 transformers tokenizers`, in this folder:

```python
import ctranslate2
from transformers import PreTrainedTokenizerFast

tokenizer = PreTrainedTokenizerFast(tokenizer_file="tokenizer.json")
generator = ctranslate2.Generator(".", device="cpu")
tokens = tokenizer.convert_ids_to_tokens(tokenizer("A dog")["input_ids"])
found = generator.generate_batch([tokens], max_length=30, include_prompt_in_result=True)
print(tokenizer.decode(found[0].sequences_ids[0]))
```
""",
    ("ctranslate2", "encoder"): """\
With `pip install ctranslate2 transformers tokenizers numpy`, in this folder:

```python
import ctranslate2
import numpy
from transformers import PreTrainedTokenizerFast

tokenizer = PreTrainedTokenizerFast(tokenizer_file="tokenizer.json")
encoder = ctranslate2.Encoder(".", device="cpu")
output = encoder.forward_batch([tokenizer("A dog runs.")["input_ids"]])
print(numpy.array(output.last_hidden_state).shape)  # one row, its tokens, d_model
```
""",
}


def readme(chosen: Any, kind: str, model: Any, notes: list[str], quantization: str) -> str:
    """Return the text for a format of export and a model that was exported to it."""
    usage = USAGE.get((chosen.name, kind), "")
    separate = getattr(model.config, "source_vocab_size", None) is not None
    usage = usage.replace("{target_file}", "target_tokenizer.json" if separate else "tokenizer.json")
    usage = usage.replace("{target_folder}", "target_tokenizer" if separate else ".")
    config = model.config
    start = getattr(config, "decoder_start_token_id", None)
    end = config.eos_token_id[0] if isinstance(config.eos_token_id, list) else config.eos_token_id
    usage = usage.replace("{start}", str(start)).replace("{end}", str(end))
    usage = usage.replace("{suffix}", "" if quantization == "float32" else "_quantized")
    return _HEAD.format(
        title=chosen.title,
        kind=kind,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        notes="\n".join(f"- {note[:1].upper()}{note[1:]}." for note in notes) or "- Nothing was left out.",
        usage=usage.rstrip(),
    )
