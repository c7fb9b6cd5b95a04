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


def readme(chosen: Any, kind: str, model: Any, notes: list[str]) -> str:
    """Return the text for a format of export and a model that was exported to it."""
    usage = USAGE.get((chosen.name, kind), "")
    separate = getattr(model.config, "source_vocab_size", None) is not None
    usage = usage.replace("{target_file}", "target_tokenizer.json" if separate else "tokenizer.json")
    usage = usage.replace("{target_folder}", "target_tokenizer" if separate else ".")
    return _HEAD.format(
        title=chosen.title,
        kind=kind,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        notes="\n".join(f"- {note[:1].upper()}{note[1:]}." for note in notes) or "- Nothing was left out.",
        usage=usage.rstrip(),
    )
