"""Whether a tokenizer belongs to the model beside it; one that does not belong to it would silently give wrong answers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from anprompt.errors import UserError

# Files of which each is a whole vocabulary; a folder without any gets an empty one from the library.
VOCABULARIES = (
    "tokenizer.json",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "tokenizer.model",
    "sentencepiece.bpe.model",
)
_WORDS = ("cat", "dog", "sun", "red", "big", "house", "river", "7")  # told apart by any vocabulary of a language


def check_tokenizer(spec: str, tokenizer: Any, rows: int) -> None:
    """Ask the tokenizer for a few words.

    Args:
        spec: the backbone, for messages.
        tokenizer: as transformers loads it.
        rows: number of token embeddings of the model.

    Raises:
        UserError: it knows no words, its vocabulary is larger than the embedding, or it ends no sentence.
    """
    found = [list(tokenizer(word)["input_ids"]) for word in _WORDS]
    # By the set of ids: without a vocabulary a longer word is only more of the same unknown token.
    if len({frozenset(ids) for ids in found}) == 1:
        raise UserError(
            f"The tokenizer of backbone {spec!r} knows no words: all are the same token to it. {_files(spec)}"
        )
    largest = max(len(_base(tokenizer)), 1 + max(max(ids) for ids in found))
    if largest > rows:
        raise UserError(
            f"The tokenizer of backbone {spec!r} has {largest:,} tokens, but the model knows {rows:,}: it belongs to "
            "another model. Put the tokenizer files there that the model was trained with."
        )
    if tokenizer.eos_token_id is None or {ids[-1] for ids in found} != {tokenizer.eos_token_id}:
        raise UserError(
            f"The tokenizer of {spec!r} puts no end token behind a sentence, as the weights expect; put the tokenizer "
            "files there that the model was trained with, or set add_eos_token in its tokenizer_config.json."
        )


def check_ids(name: str, sentence: str, ids: Sequence[int], rows: int) -> None:
    """`UserError` where a sentence has a token that the model has no embedding for."""
    if max(ids, default=0) >= rows:
        raise UserError(
            f"The tokenizer of {name!r} gives {sentence!r} a token {max(ids)}, but the model knows {rows:,}: it belongs "
            "to another model."
        )


def _base(tokenizer: Any) -> range:
    """The tokens of the vocabulary itself, without those that were added to it."""
    return range(int(getattr(tokenizer, "vocab_size", 0) or 0))


def _files(spec: str) -> str:
    remedy = "save them there with tokenizer.save_pretrained(FOLDER), or copy them from the model it was made of."
    if os.path.isdir(spec) and not any(os.path.isfile(os.path.join(spec, name)) for name in VOCABULARIES):
        return f"The folder has no tokenizer files (tokenizer.json, or vocab.json and merges.txt); {remedy}"
    return f"Its tokenizer files (tokenizer.json, or vocab.json and merges.txt) are empty or damaged; {remedy}"
