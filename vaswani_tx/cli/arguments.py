"""Arguments and help of the verbs that need the library alone, and the help of the whole command."""

import argparse
from typing import Any

from vaswani_tx.cli.training import COMMANDS, Command, kinds_of
from vaswani_tx.convert.formats import FORMATS
from vaswani_tx.limits import BEAMS, GNMT_ALPHA, LENGTH_PENALTY, TOKENS, thread_bounds, whole
from vaswani_tx.suggestions import did_you_mean

DESCRIPTION = """\
The 2017 Transformer ("Attention Is All You Need") for Hugging Face: train
models, measure them, use them, publish them.

use a model, ours or any other encoder-decoder (MarianMT, T5, BART, NLLB, ...):
  translate   translate files, pipes, or what you type
  score       the probability of given translations
  classify    {classify}
  explain     look inside one: a page that shows how it reads a sentence
  info        what a model is: its sizes, files and origin
  push        publish a model on the Hugging Face Hub
  convert     a checkpoint of another toolkit as a model of ours
  export      write it for CTranslate2, ONNX, torch.export or MarianMT

make one:
  train KIND  train it; KIND is one of
{train}
  average     {average}
  backtranslate  {backtranslate}
  distill     {distill}

measure and describe it:
  evaluate    {evaluate}
  compare     {compare}
  report      {report}
  sweep       {sweep}
  card        {card}

other programs:
  run         lm_eval, `transformers serve` or a script, with our models known"""
EXAMPLES = """\
from two text files, line N of one the translation of line N of the other:
  vaswani-tx train translation --preset tiny --train-source train.en \\
      --train-target train.de --tokenizer-vocab-size 8000 --max-minutes 30 \\
      --output-dir runs/first
  echo "A dog runs." | vaswani-tx translate runs/first/averaged

`vaswani-tx VERB --help` is the manual of a verb. A model is a folder (such as
runs/first/averaged) or a name on the Hugging Face Hub. To train and to measure,
install the extra `train`: pip install 'vaswani-tx[train]'

"""
RUN_HELP = """\
usage: vaswani-tx run -m MODULE [ARGUMENT ...]
       vaswani-tx run SCRIPT.py [ARGUMENT ...]

Run another program as `python -m MODULE` or `python SCRIPT.py` would, with this package imported first: every tool that
loads models by transformers' Auto classes then loads ours. `accelerate launch -m vaswani_tx run ...` works too.

examples:
  vaswani-tx run -m lm_eval --model hf --model_args pretrained=runs/causal/best --tasks lambada_openai
  vaswani-tx run -m transformers.cli.transformers serve
  vaswani-tx run examples/pytorch/translation/run_translation.py --model_name_or_path runs/first/averaged ..."""
STATUS = """\
exit status: 0 all is well; 1 it failed (disk, memory, network, an internal
error); 2 wrong usage or input; 130 Ctrl-C; 141 the reader of the output went
away, as in `... | head -1`. --debug, or VASWANI_TX_DEBUG=1, prints the
traceback of an error."""
TRANSLATE = """\
Translate text, one line a sentence, and answer each line by one line in the same order. An empty line stays empty.

Without --input the lines come from standard input. In a pipe every line is answered as soon as it comes; on a terminal
there is a prompt with history. Decoding is what the model's generation_config.json says unless an option says more."""
TRANSLATE_EXAMPLES = """\
examples:
  echo "A dog runs." | vaswani-tx translate MODEL
  vaswani-tx translate MODEL                                    a prompt; Ctrl-D ends
  vaswani-tx translate MODEL --input big.en --output big.de     stopped or killed? the same command resumes
  vaswani-tx translate MODEL --input a.en --format tsv --n-best 4 --beams 4
  vaswani-tx translate MODEL --input a.en --format jsonl --alignments
  vaswani-tx translate MODEL --require "Hund|Hunde" --forbid Katze --beams 8
  vaswani-tx translate facebook/nllb-200-distilled-600M --src-lang eng_Latn --tgt-lang deu_Latn
  accelerate launch -m vaswani_tx translate MODEL --input big.en --output big.de    on all GPUs

formats:
  text    the best translation of each line
  tsv     line number, rank, score, translation; --n-best rows for each line
  jsonl   {"line", "source", "hypotheses": [{"text", "score", "alignment"}]} for each line
The score is what the search ranked by: log P(translation | source) over the length penalty.
--forbid and --require look at the text, so "cat" is also in "cats"; --whole-words makes them words.

"""
SCORE = """\
Print how probable a model finds given translations: line N of --target as translation of line N of --source.

All logarithms are natural. The tokens of a line are those of its translation with the end of sentence: the model's loss
is the mean over them. The perplexity of all lines together goes to standard error; compare it only between models with
one vocabulary."""
SCORE_EXAMPLES = """\
examples:
  vaswani-tx score MODEL --source test.en --target test.de > scores.tsv
  vaswani-tx score MODEL --source test.en --target test.de --by-token --format jsonl
  cut -f2 scores.tsv | sort -g | head          the least probable pairs

formats:
  tsv               line number, log-probability, tokens, log-probability a token, perplexity
  tsv --by-token    line number, position of the token, token, log-probability
  jsonl             {"line", "log_prob", "tokens", "log_prob_per_token", "perplexity"} for each line,
                    with --by-token also "by_token": [{"token", "log_prob"}]

"""
INFO = """\
Print what a model is: its class, parameters, vocabulary, settings, files and where it comes from.

No weights are loaded and no code of the model runs: sizes come from the headers of its safetensors files."""
INFO_EXAMPLES = """\
examples:
  vaswani-tx info runs/first/averaged
  vaswani-tx info MODEL --json | jq .parameters.total

"""
EXPLAIN = """\
Write a page that shows how a model reads TEXT: attention, heads, positions, blocks and decoding, with the numbers of
its own forward pass. One HTML file; it opens in any browser and needs no network. With --figure, one diagram alone.

TEXT is a source sentence, the beginning of a text for a model without an encoder, or an image file for an image model.
Any encoder-decoder, causal or masked language model or classifier whose attention transformers can record will do."""
EXPLAIN_EXAMPLES = """\
examples:
  vaswani-tx explain runs/first/averaged "A dog runs." -o page.html
  vaswani-tx explain MODEL "A dog runs." --target "Ein Hund rennt."      follow this translation
  vaswani-tx explain MODEL "A dog runs." --run runs/first                with the curves of its training
  vaswani-tx explain MODEL "A dog runs." --figure attention --layer 3 --head 5 -o attention.pdf

figures: attention, heads, lines (of --attention, --layer, --head), positions, beams, losses

"""
PUSH = """\
Send a model, its tokenizer, a model card and the code that loads it to the Hugging Face Hub, in one commit.

MODEL is a folder of this package's models, REPO is owner/name. Only files of a fixed list leave the folder. You need a
token: `hf auth login`, or the environment variable HF_TOKEN."""
PUSH_EXAMPLES = """\
examples:
  vaswani-tx push runs/first/averaged me/my-model --dry-run        what would be sent; contacts nobody
  vaswani-tx push runs/first/averaged me/my-model --private --message "First model"

"""
EXPORT = """\
Write a model of this package in the format of another runtime: a folder with the weights, the tokenizer and a README.md
that shows how to run it. What the format cannot hold exactly is refused with the reason."""
EXPORT_EXAMPLES = """\
examples:
  vaswani-tx export runs/first/averaged fast --format ctranslate2 --verify test.en
  vaswani-tx export MODEL small --format ctranslate2 --quantization int8
  vaswani-tx export MODEL browser --format onnx --verify
  vaswani-tx export MODEL marian --format marian --verify      loads with transformers alone

formats: ctranslate2, onnx, torch (torch.export), marian (MarianMTModel)

"""
CONVERT = """\
Write a checkpoint of another toolkit as a model folder of this package: weights, tokenizer and settings.

SOURCE is a folder or file, or a name on the Hub. Its format is recognised from its files. Where the original can run,
the converted model is compared with it before anything is written. What cannot be converted exactly is refused."""
CONVERT_EXAMPLES = """\
examples:
  vaswani-tx convert Helsinki-NLP/opus-mt-en-de opus-en-de
  vaswani-tx convert checkpoints/model.pt converted --map map.yaml

formats (--format):
{formats}

"""


def parse(argv: list[str] | None, version: str) -> argparse.Namespace:
    """Read the command line; `options.verb` names the verb. Ends with status 2 and the usage where it is wrong."""
    parser = _make_parser(version)
    verbs = ("translate", "score", "explain", "info", "push", "convert", "export", "run", *COMMANDS)
    if argv and not argv[0].startswith("-") and argv[0] not in verbs:
        hint = did_you_mean(argv[0], verbs) or ": `vaswani-tx --help` lists them"
        parser.error(f"there is no verb '{argv[0]}'{hint}")
    options, unknown = parser.parse_known_args(argv)
    if unknown:
        options.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    _check(options.parser, options)
    return options


def _make_parser(version: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vaswani-tx",
        usage="vaswani-tx VERB ...",
        description=_description(),
        epilog=EXAMPLES + STATUS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"vaswani-tx {version}")
    # The description lists the verbs in groups, which argparse cannot.
    verbs = parser.add_subparsers(prog=parser.prog, dest="verb", metavar="VERB", required=True, help=argparse.SUPPRESS)
    _translate(_verb(verbs, "translate", TRANSLATE, TRANSLATE_EXAMPLES))
    _score(_verb(verbs, "score", SCORE, SCORE_EXAMPLES))
    _explain(_verb(verbs, "explain", EXPLAIN, EXPLAIN_EXAMPLES))
    _info(_verb(verbs, "info", INFO, INFO_EXAMPLES))
    _push(_verb(verbs, "push", PUSH, PUSH_EXAMPLES))
    _export(_verb(verbs, "export", EXPORT, EXPORT_EXAMPLES))
    formats = "\n".join(f"  {name:<18}{one.title}" for name, one in FORMATS.items())
    _convert(_verb(verbs, "convert", CONVERT, CONVERT_EXAMPLES.format(formats=formats), "SOURCE", "what to convert"))
    return parser


def _description() -> str:
    lines = {verb: command.help for verb, command in COMMANDS.items() if isinstance(command, Command)}
    train = [f"    {kind:<18}{command.help}" for kind, command in kinds_of("train").items()]
    evaluate = f"scores on a test set; of {', '.join(kinds_of('evaluate'))}"
    return DESCRIPTION.format(train="\n".join(train), evaluate=evaluate, **lines)


def _check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """End with status 2 and the usage where options do not go together."""
    if options.verb == "translate":
        if options.format == "text" and (options.n_best or 1) > 1:
            parser.error("--n-best needs a format with ranks: give --format tsv or jsonl")
        if options.format != "jsonl" and options.alignments:
            parser.error("--alignments needs --format jsonl")
        if options.gnmt_alpha is not None and options.length_penalty is not None:
            parser.error("--gnmt-alpha and --length-penalty are two rankings of the same beams: give one")
        if options.whole_words and not (options.require or options.forbid):
            parser.error("--whole-words is about --require and --forbid: give one of them")
        options.search = "transformers" if options.engine == "transformers" else None
        options.engine = None if options.search else options.engine
        if options.quantization and not options.engine:
            parser.error("--quantization is of an engine: give --engine ctranslate2 or onnx too")
        if options.engine and options.precision:
            parser.error("--precision is of torch: with --engine give --quantization")
        if options.restart and options.output in (None, "-"):
            parser.error("--restart needs --output: only a file can be started again")
    if options.verb == "score" and options.source == options.target == "-":
        parser.error("--source and --target cannot both be standard input")


def _verb(
    verbs: Any,
    name: str,
    text: str,
    examples: str,
    subject: str = "MODEL",
    help: str = "the model's folder, or its name on the Hub",
) -> argparse.ArgumentParser:
    parser = verbs.add_parser(
        name,
        description=text,
        epilog=examples + STATUS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(parser=parser)
    parser.add_argument("model", metavar=subject, help=help)
    return parser


def _translate(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("input and output").add_argument
    add("-i", "--input", metavar="FILE", help="text to translate; default, and `-`: standard input")
    add("-o", "--output", metavar="FILE", help="file that appears when all is done; default, and `-`: standard output")
    add("--restart", action="store_true", help="ignore what an earlier run left of --output, start again")
    add("--format", choices=("text", "tsv", "jsonl"), default="text", help="of the output, see below; default: text")
    add("--n-best", type=BEAMS, metavar="N", help="the N best translations of each line (tsv and jsonl)")
    add("--alignments", nargs="?", const="words", choices=("words", "tokens"),
        help="jsonl only: from which source word each word comes, by cross-attention; default: words")  # fmt: skip
    _errors(add)
    add = parser.add_argument_group("search").add_argument
    add("--beams", type=BEAMS, metavar="N", help="beams; 1 is greedy and several times as fast")
    add("--length-penalty", type=LENGTH_PENALTY, metavar="P", help="rank by log P / length**P")
    add("--gnmt-alpha", type=GNMT_ALPHA, metavar="A",
        help="rank by log P / ((5 + length) / 6)**A, the paper's way; this package's models only")  # fmt: skip
    add("--max-length", type=TOKENS, metavar="N", help="most tokens of a translation")
    add("--no-repeat-ngram-size", type=whole(), metavar="N", help="let no N tokens in a row come twice")
    add("--require", action="append", metavar="PHRASE",
        help='every translation holds it; "A|B": one of the two; may be repeated')  # fmt: skip
    add("--forbid", action="append", metavar="PHRASE", help="no translation holds it; may be repeated")
    add("--whole-words", action="store_true", help="--require and --forbid are whole words: `cat` is not in `cats`")
    add("--prefix", metavar="TEXT", help="every translation begins so")
    add = parser.add_argument_group("long lines and batches").add_argument
    add("--long-lines", choices=("split", "truncate", "error"), default="split",
        help="lines with more tokens than that: translated in pieces (default), cut off, or refused")  # fmt: skip
    add(
        "--max-source-length",
        type=whole(),
        metavar="N",
        help="tokens of a line that is not long; default: the model's, at most 1024",
    )
    add("--buffer-size", type=whole(), default=512, metavar="N",
        help="lines that are read ahead, sorted by length, and then answered; default: 512")  # fmt: skip
    _batches(add)
    _loading(parser)
    _engine(parser.add_argument_group("engine").add_argument)


def _score(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("input and output").add_argument
    add("--source", required=True, metavar="FILE", help="source text; `-`: standard input")
    add("--target", required=True, metavar="FILE", help="its translations, line by line; `-`: standard input")
    add("-o", "--output", metavar="FILE", help="file that appears when all is done; default, and `-`: standard output")
    add("--format", choices=("tsv", "jsonl"), default="tsv", help="of the output, see below; default: tsv")
    add("--by-token", action="store_true", help="the log-probability of every token")
    _errors(add)
    add = parser.add_argument_group("long lines and batches").add_argument
    add("--max-length", type=whole(), metavar="N",
        help="longer lines (in tokens) are refused; default: the model's, at most 1024")  # fmt: skip
    add("--buffer-size", type=whole(), default=512, metavar="N", help="pairs that are sorted by length; default: 512")
    _batches(add)
    _loading(parser)


def _explain(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("text", metavar="TEXT", help="the sentence; of an image model, the image's file")
    add = parser.add_argument_group("page").add_argument
    add("-o", "--output", metavar="FILE", help="default: explain.html, or the figure's name")
    add("--target", metavar="TEXT", help="translation or continuation to follow; default: the model's own")
    add(
        "--layers", type=_layers, metavar="LIST", help="layers to keep, such as 1,4-6; default: all, as far as they fit"
    )
    add("--run", metavar="DIR", help="training run whose curves the page shows")
    add("--name", help="what the page calls the model; default: MODEL")
    add = parser.add_argument_group("figure").add_argument
    add("--figure", metavar="NAME", help="write one diagram instead of the page, see below")
    add("--attention", choices=("encoder", "decoder", "cross"), help="whose; default: cross where there is one")
    add("--layer", type=whole(), metavar="N", help="counted from 1; default: the last")
    add("--head", type=whole(), metavar="N", help="counted from 1; default: 1")
    add("--format", choices=("svg", "pdf", "png"), help="default: the ending of --output, else svg")
    add = parser.add_argument_group("model").add_argument
    add("--tokenizer", metavar="DIR", help="folder or name of the tokenizer; default: the model's")
    add("--device", help="cpu, cuda, cuda:1, mps; default: a GPU if there is one")
    add("--num-threads", type=thread_bounds(), metavar="N", help="CPU threads; default: torch's choice")
    add("--trust-remote-code", action="store_true",
        help="run Python code that comes with the model: read it first; our models need none")  # fmt: skip
    add("-q", "--quiet", action="store_true", help="print nothing")


def _layers(text: str) -> list[int]:
    """Layers such as `1,4-6`, counted from 1."""
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise argparse.ArgumentTypeError(f"{text!r} is no list of layers: write 1,4-6")
        low, high = int(first), int(last if dash else first)
        if not 1 <= low <= high <= 1000:
            raise argparse.ArgumentTypeError(f"{part.strip()!r} is no range of layers: they are counted from 1")
        found.update(range(low, high + 1))
    return sorted(found)


def _info(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="as JSON, with every number as it is")


def _push(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("repo", metavar="REPO", help="owner/name on the Hub")
    add("--private", action="store_true", help="only you see it; default: the Hub's")
    add("--dry-run", action="store_true", help="contact nobody, only say what would be sent")
    add("--message", default="Upload model", help="of the commit")
    add("--revision", metavar="BRANCH", help="branch to commit to; default: main")
    add("--tokenizer", metavar="DIR", help="folder of the tokenizer; default: the model's")
    add(
        "--card",
        metavar="FILE",
        help="model card; default: README.md of the folder, else written from its training run",
    )
    add("--run", metavar="DIR", help="training run that the card is written from")
    add("--no-code", action="store_true", help="leave out the code that trust_remote_code=True runs")


def _export(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("out", metavar="OUT", help="folder to write")
    add("--format", required=True, metavar="FORMAT", help="ctranslate2, onnx, torch or marian")
    add("--quantization", metavar="TYPE", help="of the weights: float32 (default), int8, int8_float32, bfloat16, ...")
    add("--verify", nargs="?", const="", metavar="FILE",
        help="compare the export with the model, on the lines of FILE or on built-in sentences")  # fmt: skip
    add("--overwrite", action="store_true", help="replace OUT, which must be an earlier export")
    add("--tokenizer", metavar="DIR", help="folder of the tokenizer; default: the model's")
    add("--positions", type=whole(), metavar="N", help="ctranslate2: rows of the table of sinusoids; default: 2048")
    add("--opset", type=whole(), metavar="N", help="onnx: version of the operators; default: 18")
    add("-q", "--quiet", action="store_true", help="print nothing where all is well")


def _engine(add: Any) -> None:
    add("--engine", choices=("ctranslate2", "onnx", "transformers"),
        help="what computes instead of torch, on the CPU; MODEL is exported once into a cache. transformers: its own"
        " search, which is slower and finds the same")  # fmt: skip
    add("--quantization", metavar="TYPE", help="with --engine: of the weights, such as int8; default: float32")


def _convert(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("out", metavar="OUT", help="folder to write; it must be empty or absent")
    add("--format", metavar="NAME", help="what SOURCE is, see below; default: recognised from its files")
    add("--map", metavar="FILE", help="YAML file that says where each weight belongs, for the formats that take one")
    add("--source-vocabulary", metavar="FILE", help="fairseq, OpenNMT-py, JoeyNMT: dictionary of the source")
    add("--target-vocabulary", metavar="FILE", help="the same of the target; default: what is beside SOURCE or in it")
    add("--codes", metavar="FILE", help="merges of subword-nmt or fastBPE; default: a file bpecodes, ... beside SOURCE")
    add("--target-codes", metavar="FILE", help="merges of the target, if it has others")
    add("--hparams-set", metavar="NAME", help="tensor2tensor, without hparams.json: such as transformer_base")
    add("--num-heads", type=whole(), metavar="N", help="tensor2tensor: heads, instead of --hparams-set")
    add("--target-space-id", type=whole(0), metavar="N", help="tensor2tensor: the target space of the problem")
    add("--no-verify", action="store_true", help="do not compare the converted model with the original")
    add("--overwrite", action="store_true", help="replace the model in OUT; its other files are kept")
    add("--with-code", action="store_true", help="add the code that trust_remote_code=True runs")


def _errors(add: Any) -> None:
    add("--errors", choices=("strict", "replace"), default="strict",
        help="bytes that are not UTF-8: stop at their line (default), or put U+FFFD in their place")  # fmt: skip


def _batches(add: Any) -> None:
    add("--batch-size", type=whole(), default=128, metavar="N", help="most lines of a batch; default: 128")
    add("--max-tokens", type=whole(), default=4096, metavar="N",
        help="most source tokens of a batch, padding included, beams not; default: 4096")  # fmt: skip


def _loading(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("model").add_argument
    add("--tokenizer", metavar="DIR", help="folder or name of the tokenizer; default: the model's")
    add(
        "--src-lang", metavar="CODE", help="language of the source, for tokenizers with languages (eng_Latn, en_XX, en)"
    )
    add("--tgt-lang", metavar="CODE", help="language of the translation; of a model with tags, de for its token >>de<<")
    add("--device", help="cpu, cuda, cuda:1, mps; default: a GPU if there is one")
    add("--precision", choices=("fp32", "bf16", "fp16"), help="arithmetic; default: the checkpoint's")
    add("--num-threads", type=thread_bounds(), metavar="N", help="CPU threads; default: torch's choice")
    add("--trust-remote-code", action="store_true",
        help="run Python code that comes with the model: read it first; our models need none")  # fmt: skip
    add("-q", "--quiet", action="store_true", help="no progress bar and no warnings")
