"""Tokens as a reader of the text sees them: pieces of text, never a vocabulary's own marks for spaces or bytes."""

from dataclasses import dataclass
from typing import Any

from vaswani_tx.token_texts_vaswani import BYTE_TOKEN, byte_alphabet

UNFINISHED = "\ufffd"


@dataclass(frozen=True)
class Token:
    """One token: its id, the text that it adds, and what it is in the vocabulary."""

    id: int
    text: str  # with its space in front, if it has one; of a part of a character, the bytes
    piece: str  # as the vocabulary writes it
    special: bool  # start, end, padding, a language tag
    partial: bool = False  # some bytes of a character


def tokens_of(tokenizer: Any, ids: list[int]) -> list[Token]:
    """Return the tokens of a sequence with the text that each adds to the text before it.

    What a token adds depends on its neighbours (spaces, characters cut into bytes), so the sequence is decoded token by
    token: the texts of all tokens that are not special, put together, are the decoded text.
    """
    special = {int(number) for number in tokenizer.all_special_ids}
    found: list[Token] = []
    done: list[int] = []
    before = ""
    for number in ids:
        piece = str(tokenizer.convert_ids_to_tokens(number))
        if number in special:
            found.append(Token(number, piece, piece, True))
            continue
        done.append(number)
        after = tokenizer.decode(done, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        if after.endswith(UNFINISHED):
            found.append(Token(number, _bytes(piece), piece, False, partial=True))
            continue
        whole = after.startswith(before)
        text = after[len(before) :] if whole else tokenizer.decode([number], clean_up_tokenization_spaces=False)
        if not done[:-1] and piece[:1] in ("\u0120", "\u2581") and not text.startswith(" "):
            text = f" {text}"  # decoding drops the space in front of the first token
        found.append(Token(number, text, piece, False))
        before = after
    return found


def token_text(tokenizer: Any, number: int) -> str:
    """Return the text of one token alone, with its space in front."""
    piece = str(tokenizer.convert_ids_to_tokens(number))
    if number in tokenizer.all_special_ids:
        return piece
    text = tokenizer.decode([number], clean_up_tokenization_spaces=False)
    if UNFINISHED in text:
        return _bytes(piece)
    return f" {text}" if piece[:1] in ("\u0120", "\u2581") and not text.startswith(" ") else text


def _bytes(piece: str) -> str:
    """Return the bytes of a piece of a byte-level vocabulary, or of one that falls back to bytes, such as `<E2 98>`."""
    if single := BYTE_TOKEN.fullmatch(piece):
        return f"<{single[1]}>"
    alphabet = byte_alphabet()
    if all(char in alphabet for char in piece):
        return "<" + " ".join(f"{alphabet[char]:02X}" for char in piece) + ">"
    return piece
