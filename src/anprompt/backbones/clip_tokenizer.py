"""CLIP's tokenizer straight from its file, as transformers would build it of the same file.

transformers reads a tokenizer.json either as it is (`TokenizersBackend`, `PreTrainedTokenizerFast`) or takes the
vocabulary out of it and puts CLIP's own rules around it (`CLIPTokenizer`). Both are done here with the same library,
tokenizers; tests hold the ids equal over sentences in many scripts.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from anprompt.backbones.clip_files import TOKENIZER, TOKENIZER_CONFIG, read_object

_START, _END = "<|startoftext|>", "<|endoftext|>"
_AS_IT_IS = ("TokenizersBackend", "PreTrainedTokenizerFast")
_BY_CLIP = ("CLIPTokenizer", "CLIPTokenizerFast")
_WORDS = r"""<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"""
# Settings that change which tokens come out, or add some: with one of them transformers reads the tokenizer.
_CHANGES = ("add_bos_token", "add_eos_token", "added_tokens", "additional_special_tokens", "extra_special_tokens",
            "split_special_tokens", "auto_map", "cls_token", "sep_token", "mask_token")  # fmt: skip


class ClipTokenizer:
    """The part of transformers' tokenizers that a backbone uses.

    Args:
        made: a tokenizer of the library tokenizers.
        end, pad: ids of the end-of-text and the padding token.
    """

    def __init__(self, made: Any, end: int, pad: int) -> None:
        self._made = made
        self.eos_token_id, self.pad_token_id = end, pad
        self.vocab_size = made.get_vocab_size(with_added_tokens=False)

    def __call__(self, sentence: str) -> dict[str, list[int]]:
        return {"input_ids": self._made.encode(sentence).ids}

    def many(self, sentences: list[str]) -> list[list[int]]:
        """The ids of each sentence."""
        return [found.ids for found in self._made.encode_batch_fast(sentences)]


def read_tokenizer(folder: Path) -> ClipTokenizer | None:
    """The tokenizer of a folder, or None where transformers must read it."""
    file, settings = read_object(folder / TOKENIZER), read_object(folder / TOKENIZER_CONFIG)
    if file is None or settings is None or any(settings.get(name) for name in _CHANGES):
        return None
    end, pad = _text(settings.get("eos_token")), _text(settings.get("pad_token"))
    added = {token.get("content") for token in file.get("added_tokens", [])}
    if end != _END or _text(settings.get("bos_token")) != _START or not added <= {_START, _END}:
        return None
    try:
        made = _build(folder, str(settings.get("tokenizer_class")), file)
    except Exception:  # the library's kinds for a file that is no such file
        return None
    ends, pads = (None, None) if made is None else (made.token_to_id(end), made.token_to_id(pad or end))
    return None if ends is None or pads is None else ClipTokenizer(made, ends, pads)


def _text(token: Any) -> str | None:
    """A special token's characters, from either form in which settings hold it."""
    found = token.get("content") if isinstance(token, Mapping) else token
    return found if isinstance(found, str) else None


def _build(folder: Path, kind: str, file: Mapping[str, Any]) -> Any:
    """The tokenizer of that class of transformers; None for another class."""
    if kind in _AS_IT_IS and file.get("post_processor"):
        from tokenizers import Tokenizer

        made = Tokenizer.from_file(str(folder / TOKENIZER))
        made.no_truncation()
        made.no_padding()
        return made
    return _by_clip(file["model"]) if kind in _BY_CLIP and file["model"].get("type") == "BPE" else None


def _by_clip(model: Mapping[str, Any]) -> Any:
    """CLIP's rules around a vocabulary, as transformers' `CLIPTokenizer` has them."""
    from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers, processors
    from tokenizers.models import BPE

    merges: list[Any] = [tuple(pair.split(" ")) if isinstance(pair, str) else tuple(pair) for pair in model["merges"]]
    made = Tokenizer(
        BPE(vocab=model["vocab"], merges=merges, continuing_subword_prefix="", end_of_word_suffix="</w>",
            fuse_unk=False, unk_token=_END)
    )  # fmt: skip
    made.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    words = pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True)
    made.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    made.add_special_tokens([AddedToken(_START, normalized=True), AddedToken(_END, normalized=False)])
    start, end = int(made.token_to_id(_START) or 0), int(made.token_to_id(_END) or 0)  # both were added
    made.post_processor = processors.RobertaProcessing((_END, end), (_START, start), False, False)
    return made
