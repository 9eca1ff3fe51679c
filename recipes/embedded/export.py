"""Step 6: write the trained model as a transformers folder (weights in half precision, loaded as float32).

python export.py WORK MODEL_FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from model import new_model
from safetensors.torch import save_file
from transformers import CLIPModel, PreTrainedTokenizerFast

from pictures import MEAN, SIZE, STD


def main(work: Path, out: Path) -> None:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(work / "tokenizer")
    model: CLIPModel = new_model(tokenizer)
    state = torch.load(work / "joint.pt", weights_only=True)
    model.load_state_dict({k.removeprefix("model."): v for k, v in state.items() if k.startswith("model.")})
    model.logit_scale.data.clamp_(max=4.6052)
    out.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(out)
    config = model.config.to_dict() | {"architectures": ["CLIPModel"], "dtype": "float32"}
    for key in ("_attn_implementation", "attn_implementation"):
        config.pop(key, None)
    (out / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    save_file(
        {k: v.half().contiguous() for k, v in model.state_dict().items()},
        out / "model.safetensors",
        metadata={"format": "pt"},
    )
    (out / "model.safetensors").chmod(0o644)
    preprocessor = {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": SIZE},
        "do_center_crop": True,
        "crop_size": {"height": SIZE, "width": SIZE},
        "resample": 3,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "do_convert_rgb": True,
        "image_mean": MEAN,
        "image_std": STD,
    }
    (out / "preprocessor_config.json").write_text(json.dumps(preprocessor, indent=2) + "\n")
    print({p.name: p.stat().st_size for p in sorted(out.iterdir())}, sum(p.numel() for p in model.parameters()))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
