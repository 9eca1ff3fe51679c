"""Step 3: what the things are called, as captions, and a small tokenizer trained on them.

python captions.py WORK
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

CONTEXT = 32
BOS, EOS = "<|startoftext|>", "<|endoftext|>"
TEMPLATES = [
    "a photo of a {}.",
    "a picture of a {}.",
    "a drawing of a {}.",
    "a pictogram of a {}.",
    "an icon of a {}.",
    "an image of the {}.",
    "a small {}.",
    "one {}.",
    "this is a {}.",
    "{}",
]


def kind(thing: dict) -> str:
    """'animal-mammal' -> 'mammal', 'food-fruit' -> 'fruit': the subgroup as a word."""
    return thing["subgroup"].split("-", 1)[-1].replace("-", " ")


def caption(thing: dict, rng: random.Random) -> str:
    """One random caption: mostly a template with the name, sometimes with the kind or some keywords."""
    text = rng.choice(TEMPLATES).format(thing["name"])
    words = [w for w in thing["keywords"] if w not in thing["name"]]
    pick = rng.random()
    if pick < 0.15:
        return f"{text.rstrip('.')}, a kind of {kind(thing)}."
    if pick < 0.4 and words:
        return f"{text.rstrip('.')}: {', '.join(rng.sample(words, min(len(words), rng.randint(1, 3))))}."
    return text


def train_tokenizer(things: list[dict], vocabulary: int = 2560) -> PreTrainedTokenizerFast:
    """Lower-casing byte-level BPE: any text has an encoding; end-of-text has the highest number, as in CLIP."""
    rng = random.Random(0)
    lines = [caption(t, rng) for t in things for _ in range(4)]
    lines += [", ".join([t["name"], kind(t), *t["keywords"]]) for t in things]
    core = Tokenizer(models.BPE())
    core.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - 2,
        show_progress=False,
        min_frequency=2,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    core.train_from_iterator(lines, trainer)
    core.add_special_tokens([BOS])
    core.add_special_tokens([EOS])
    core.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A {EOS}", special_tokens=[(t, core.token_to_id(t)) for t in (BOS, EOS)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=EOS,
        model_max_length=CONTEXT,
        padding_side="right",
        truncation_side="right",
        clean_up_tokenization_spaces=False,
    )


def main(work: Path) -> None:
    things = json.loads((work / "things.json").read_text())
    tokenizer = train_tokenizer(things)
    tokenizer.save_pretrained(work / "tokenizer")
    lengths = [len(tokenizer(TEMPLATES[0].format(t["name"]))["input_ids"]) for t in things]
    print(len(tokenizer), "tokens; longest name with template:", max(lengths), "of", CONTEXT)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
