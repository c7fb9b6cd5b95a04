"""The vocabularies of a translation run: one that source and target share, or one of each side.

`source_vocab_size` in the recipe, or a model to start from that has two, makes them two. Their tokenizer is one object
(`VaswaniTokenizer.pair`), whose two sides `source_of` and `target_of` give.
"""

import tempfile
from functools import partial
from typing import Any

import transformers
from tokenizers import AddedToken

from vaswani_tx import VaswaniTokenizer, transfer_vocabulary
from vaswani_tx.loading import load_tokenizer
from vaswani_tx.token_texts_vaswani import source_of, target_of
from vaswani_tx.tokenizer_training import check_vocab_size
from vaswani_tx.training.command_line import print_status
from vaswani_tx.training.config.translation import TranslationSettings
from vaswani_tx.training.data.corpora import tags_of, training_texts
from vaswani_tx.training.engine.processes import on_main_process
from vaswani_tx.training.engine.run import RunContext
from vaswani_tx.training.errors import SettingsError
from vaswani_tx.training.tasks.tokenizers import find_tokenizer, has_tokenizer, wanted_size

SIDES = {"source": source_of, "target": target_of}


def make_tokenizer(context: RunContext) -> VaswaniTokenizer:
    """Return the tokenizer of the run: its own, the given one, or a new one, trained on both sides or on each alone.

    Raises:
        SettingsError: there is none and none is to be trained, or it does not agree with `source_vocab_size`.
    """
    return on_main_process(context.accelerator, partial(_find_or_train, context))


def _find_or_train(context: RunContext) -> VaswaniTokenizer:
    settings = context.settings
    start = None if settings.new_vocabulary else settings.init_from
    found = find_tokenizer(context, [settings.tokenizer, start])
    if found is None:
        return with_tags(_train_pair(settings) if settings.source_vocab_size else _train_one(settings), settings)
    if not context.resume_from:
        _check_number(settings, found, belongs_to_model=not (settings.tokenizer and has_tokenizer(settings.tokenizer)))
    return with_tags(found, settings)


def with_tags(tokenizer: VaswaniTokenizer, settings: TranslationSettings) -> VaswaniTokenizer:
    """Add the tags of a recipe's corpora to a tokenizer, where they are missing, as tokens that are found in text.

    Raises:
        SettingsError: a tag that the tokenizer cannot read as one token, or both directions with two vocabularies.
    """
    if tokenizer.has_target and settings.bidirectional:
        raise SettingsError(
            f"bidirectional: '{tokenizer.name_or_path}' holds two vocabularies, and both sides then hold both "
            "languages: use a tokenizer that they share."
        )
    tags, side = tags_of(settings), source_of(tokenizer)
    known = side.get_vocab() if tags else {}
    # White space before a tag is part of it: `>>de<< <BT> I` has two tags and a word.
    tokenizer.add_tokens([AddedToken(tag, lstrip=True, normalized=False) for tag in tags if tag not in known])
    for tag in tags:
        if side(f"{tag} a")["input_ids"][0] != side.convert_tokens_to_ids(tag):
            raise SettingsError(
                f"tag: '{tag}' is no token of its own for '{tokenizer.name_or_path}', where it is an ordinary piece of "
                "text: choose another tag."
            )
    return tokenizer


def _train_one(settings: TranslationSettings) -> VaswaniTokenizer:
    if settings.encoder_from and has_tokenizer(settings.encoder_from):
        found = _for_translation(load_tokenizer(settings.encoder_from, tokenizer_class=VaswaniTokenizer))
        _check_number(settings, found)
        return found
    size = wanted_size(settings, [settings.tokenizer, settings.init_from, settings.encoder_from])
    return VaswaniTokenizer.train(training_texts(settings), vocab_size=size)


def _train_pair(settings: TranslationSettings) -> VaswaniTokenizer:
    """Return two tokenizers as one: each that of the pre-trained stack of its side, or trained on its side's text."""
    stacks = {"source": settings.encoder_from, "target": settings.decoder_from}
    keys = {"source": "source_vocab_size", "target": "tokenizer_vocab_size"}
    made, sizes = {}, {}
    for side, stack in stacks.items():
        if stack and has_tokenizer(stack):
            former = load_tokenizer(stack, tokenizer_class=VaswaniTokenizer)
            made[side] = _for_translation(SIDES[side](former))
        else:
            sizes[side] = wanted_size(settings, [settings.tokenizer, settings.init_from, stack], keys[side])
            check_vocab_size(keys[side], sizes[side], {})
    for side, size in sizes.items():
        made[side] = VaswaniTokenizer.train(training_texts(settings, sides=(side,)), vocab_size=size)
    pair = VaswaniTokenizer.pair(made["source"], made["target"])
    _check_number(settings, pair)
    return pair


def _for_translation(tokenizer: VaswaniTokenizer) -> VaswaniTokenizer:
    """Return a tokenizer that ends texts with `</s>` and puts nothing before them, unlike that of a causal model."""
    if tokenizer.has_target or (not tokenizer.add_bos_token and tokenizer.add_eos_token):
        return tokenizer
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        settings = {"add_bos_token": False, "add_eos_token": True, "padding_side": "right"}
        return VaswaniTokenizer.from_pretrained(folder, **settings)


def _check_number(settings: TranslationSettings, tokenizer: VaswaniTokenizer, belongs_to_model: bool = False) -> None:
    """Raise SettingsError where the recipe asks for one vocabulary and there are two, or the other way round.

    A tokenizer that belongs to the whole model that a run starts from may have two without being asked for.
    """
    wanted, name, own = settings.source_vocab_size, tokenizer.name_or_path, len(source_of(tokenizer))
    if tokenizer.has_target and wanted is None and not belongs_to_model:
        raise SettingsError(
            f"tokenizer: '{name}' holds two vocabularies, of {own:,} source and {len(target_of(tokenizer)):,} target "
            f"tokens, but source_vocab_size is empty: set it to {own}, or name a tokenizer that both sides share."
        )
    if wanted is not None and not tokenizer.has_target:
        raise SettingsError(
            f"source_vocab_size is {wanted}, but '{name}' holds one vocabulary, of {own:,} tokens, for both sides: "
            "leave source_vocab_size out, or name the folder of two, which `vaswani-tx train tokenizer "
            f"--source-vocab-size {wanted}` makes."
        )
    if wanted is not None and own > wanted:
        raise SettingsError(
            f"source_vocab_size is {wanted}, but the source's vocabulary of '{name}' has {own:,} tokens: "
            f"set it to {own}."
        )


def adopt_vocabulary(
    model: transformers.PreTrainedModel, tokenizer: VaswaniTokenizer, settings: TranslationSettings
) -> None:
    """Give a pre-trained model the run's vocabulary where the recipe asks for it; else both must be the same."""
    if not settings.new_vocabulary and not (tags := _new_tags(tokenizer, settings)):
        check_same_vocabulary(tokenizer, settings.init_from)
        return
    if not has_tokenizer(settings.init_from):
        raise SettingsError(f"new_vocabulary: there is no tokenizer.json in '{settings.init_from}' to compare with.")
    former = load_tokenizer(settings.init_from, tokenizer_class=VaswaniTokenizer)
    if former.has_target != tokenizer.has_target:
        raise SettingsError(
            f"new_vocabulary: '{settings.init_from}' has {_number(former)}, the new tokenizer {_number(tokenizer)}: "
            "give it as many."
        )
    if not settings.new_vocabulary:
        transfer_vocabulary(model, former, tokenizer, side="source" if tokenizer.has_target else None)
        print_status(f"new in the vocabulary of '{settings.init_from}': {', '.join(tags)}")
        return
    for side in SIDES if tokenizer.has_target else (None,):
        counts = transfer_vocabulary(model, former, tokenizer, side=side)
        what = f"new vocabulary of the {side}" if side else "new vocabulary"
        print_status(f"{what} on '{settings.init_from}': {counts}")


def _new_tags(tokenizer: VaswaniTokenizer, settings: TranslationSettings) -> list[str]:
    """Return the tags that the model of `init_from` does not know, where they are all that is new."""
    tags = tags_of(settings)
    if not tags or not has_tokenizer(settings.init_from):
        return []
    former = load_tokenizer(settings.init_from, tokenizer_class=VaswaniTokenizer)
    known = source_of(former).get_vocab()
    new = [tag for tag in tags if tag not in known]
    rest = {token: index for token, index in source_of(tokenizer).get_vocab().items() if token not in new}
    same = rest == known and target_of(former).get_vocab().items() <= target_of(tokenizer).get_vocab().items()
    return new if same and former.has_target == tokenizer.has_target else []


def check_embeddings(model: transformers.PreTrainedModel, tokenizer: VaswaniTokenizer, name: str) -> None:
    """Raise SettingsError where a model reads both of two vocabularies with one embedding."""
    if tokenizer.has_target and getattr(model.config, "source_vocab_size", None) is None:
        raise SettingsError(
            f"tokenizer: '{tokenizer.name_or_path}' holds two vocabularies, but {name} has one embedding for both "
            "sides: name the tokenizer that it was trained with, or start a new model with source_vocab_size."
        )


def check_same_vocabulary(tokenizer: VaswaniTokenizer, folder: str, sides: tuple[str, ...] = tuple(SIDES)) -> None:
    """Raise SettingsError where a pre-trained model's own tokenizer is another one than the run's.

    Args:
        sides: those of which the run takes the model's weights.
    """
    if not has_tokenizer(folder):
        return
    former = load_tokenizer(folder, tokenizer_class=VaswaniTokenizer)
    if former.has_target != tokenizer.has_target and len(sides) > 1:
        raise SettingsError(
            f"tokenizer: '{folder}' was trained with {_number(former)}, this run's tokenizer holds "
            f"{_number(tokenizer)}: leave tokenizer out to use that model's own."
        )
    for side in sides:
        theirs, ours = SIDES[side](former), SIDES[side](tokenizer)
        if theirs.get_vocab() != ours.get_vocab():
            of_side = f" of the {side}" if tokenizer.has_target else ""
            raise SettingsError(
                f"tokenizer: '{folder}' was trained with another vocabulary{of_side} ({len(theirs):,} tokens) than "
                f"this run's ({len(ours):,}): leave tokenizer out to use that one, or put the new one onto init_from "
                "with new_vocabulary: true."
            )


def _number(tokenizer: Any) -> str:
    return "two vocabularies" if tokenizer.has_target else "one vocabulary"
