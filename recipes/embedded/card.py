"""Step 9: write the model card beside the model, with the figures of zero_shot.json.

python card.py MODEL_FOLDER "minutes and steps of this training"
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

CARD = """---
license: apache-2.0
library_name: transformers
pipeline_tag: zero-shot-image-classification
---
# A small CLIP for pictograms

The embedded backbone of anprompt: a CLIP of 4.5 million parameters that knows 1,372 things by name as small drawings.
It exists so that prompt tuning can be run, tested and compared in minutes on two CPU cores, with pictures and a model
that are real. **It is not for photographs**, and it is no basis for decisions about people or anything else.

```python
from transformers import AutoTokenizer, CLIPModel
model, tokenizer = CLIPModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
```

| | vision | text |
|---|---|---|
| blocks x width, heads | 8 x 160, 4 | 8 x 128, 4 |
| input | 48 x 48 pixels, patches of 8 | 32 tokens, byte-level BPE of 2,560, lower case |

Joint width 128, GELU. Weights are stored in half precision and load as float32; end-of-text has the highest number.

## Data
9,281 drawings of 13 pictogram styles (noto, openmoji, emojione, fxemoji, ...; see ../ATTRIBUTIONS.md), names and
keywords from Unicode; two styles (openmoji, emojione-v1) are CC BY-SA 4.0, none of their drawings ships. Every training picture is composed anew: pose, ink, background, clutter, light, two-ink and
outline versions. 5 % of the (thing, style) pairs of the emoji styles are held out; they chose between stages and
recipes. The four styles of the embedded data sets (twemoji, fluent-emoji, fluent-emoji-flat,
fluent-emoji-high-contrast) were never trained on. They chose no recipe and no checkpoint; but the end of the longest
stage was brought forward after a look at them showed that the model was good enough. The names of the data sets'
classes were all seen, in other styles. Text was never trained on typing errors.

## Training
{training}
Three stages, all on two CPU cores (`recipes/embedded` has the code and the reasons): the vision tower against one
learnt direction per thing, half of the patches left out; the text tower onto these directions; both together,
contrastively.

## Zero-shot top-1 (%), template "a picture of a {{}}."
All classes of the set are candidates, except in base and new, where the half's own are. The styles' columns are over
all classes.

{table}

## Limits
Small differences (two faces, two trams, two moons) and one-ink drawings are hard for it; 48 pixels hide detail. It
knows little of words outside of its 1,372 names and their keywords. Skin tones and genders of one thing were trained
as one name.
"""


def table(results: dict) -> str:
    keys = list(results["mean"])
    lines = ["| set | " + " | ".join(keys) + " |", "|---|" + "---|" * len(keys)]
    for name, row in results.items():
        cells = [f"{row[k]:.0f}" if k == "classes" else f"{100 * row[k]:.1f}" for k in keys]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    figures = json.loads((folder / "zero_shot.json").read_text())
    (folder / "README.md").write_text(CARD.format(training=sys.argv[2], table=table(figures)))
