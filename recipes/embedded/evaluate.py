"""Step 8: zero-shot top-1 of the exported model on the embedded data sets, by set and by style (a JSON file).

python evaluate.py OUT.json
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from transformers import AutoTokenizer, CLIPModel

from anprompt.data.embedded import EMBEDDED_SETS, embedded_dataset, embedded_model_folder
from pictures import normalise


@torch.no_grad()
def evaluate(name: str, model: CLIPModel, tokenizer) -> dict:
    data = embedded_dataset(name)
    tokens = tokenizer([data.template.format(c) for c in data.classnames], padding=True, return_tensors="pt")
    text = model.text_projection(model.text_model(**tokens).pooler_output)
    pixels = torch.from_numpy(np.stack([np.asarray(data.read(i)) for i in data.test])).permute(0, 3, 1, 2) / 255
    image = torch.cat(
        [
            model.visual_projection(model.vision_model(pixel_values=normalise(p)).pooler_output)
            for p in pixels.split(256)
        ]
    )
    logits = torch.nn.functional.normalize(image, dim=-1) @ torch.nn.functional.normalize(text, dim=-1).T
    label = torch.tensor([i.label for i in data.test])
    half = -(-len(data.classnames) // 2)
    right = logits.argmax(1) == label
    result = {"classes": len(data.classnames), "all": right.float().mean().item()}
    base = label < half
    result["base"] = (logits[base][:, :half].argmax(1) == label[base]).float().mean().item()
    result["new"] = (logits[~base][:, half:].argmax(1) + half == label[~base]).float().mean().item()
    by_style = defaultdict(list)
    for item, hit in zip(data.test, right.tolist()):
        by_style[item.domain].append(hit)
    return result | {style: sum(hits) / len(hits) for style, hits in by_style.items()}


def main(out: Path) -> None:
    torch.set_num_threads(1)
    model = CLIPModel.from_pretrained(embedded_model_folder()).eval()
    tokenizer = AutoTokenizer.from_pretrained(embedded_model_folder())
    results = {name: evaluate(name, model, tokenizer) for name in EMBEDDED_SETS}
    keys = list(next(iter(results.values())))
    results["mean"] = {k: sum(r[k] for r in results.values()) / len(EMBEDDED_SETS) for k in keys}
    out.write_text(json.dumps(results, indent=1) + "\n")
    for name, row in results.items():
        print(f"{name:10s}", "  ".join(f"{k} {v:.3f}" if k != "classes" else f"{v:.0f}" for k, v in row.items()))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
