"""ONNX: the adapted image tower and the text features of a class list as one file that needs no torch.

    model.onnx    pixels [N, 3, S, S] in 0..1  ->  logits [N, C], probabilities [N, C], features [N, E]
    model.json    class names, how a picture becomes pixels, where the model comes from, sha256 of the file

The graph is traced by `torch.export`. The mean and the deviation of the backbone, the prompts, the head, the
scale and the text features are inside; the text tower is not. Every file is compared with the method before
it gets its name. `examples/onnx_predict.py` is all that is needed to use it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from anprompt._version import __version__
from anprompt.data.crop import centre_view
from anprompt.errors import UserError
from anprompt.methods.base import ROWS, Method
from anprompt.methods.classifier import Classifier, finite
from anprompt.utils.files import atomic_write, check_output, first_line, package_versions, write_json

NEEDED = ("onnx", "onnxscript", "onnxruntime")
OUTPUTS = ("logits", "probabilities", "features")
OPSETS = range(18, 24)
OPSET = 18  # what torch translates to; others are converted from it
TOLERANCE = 1e-4
LARGEST = 2**31 - 2**20  # a protobuf file ends at 2 GiB; some room for names
FORMAT = 1
_LIBRARIES = ("torch", "onnx", "onnxscript", "onnxruntime", "transformers")


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path, facts_path: the ONNX file and the JSON beside it.
        facts: what the JSON holds.
    """

    path: Path
    facts_path: Path
    facts: dict[str, Any]


class Portable(nn.Module):
    """A classifier as a function of pixels in 0..1, with everything it needs inside.

    All exportable methods' logits are linear in the text features: `logits = tau g T^T`, with g the image
    feature, or the head's mix of two. Asking for the logits of the unit vectors therefore gives `tau g`,
    whatever the method, and a user may multiply g with text features of another list. Methods that learned something
    for each trained class (probes, caches) have that in the logits, and g is the feature for other lists.
    """

    unit_vectors: Tensor
    text: Tensor
    rows: Tensor | None
    mean: Tensor
    std: Tensor

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        method, backbone = classifier.method, classifier.method.backbone
        self.method, self.backbone, self.head = method, backbone, classifier.head
        self.scale, self.temperature = method.logit_scale, getattr(classifier, "temperature", 1.0)
        text = classifier.text["text"].detach().float()
        self.register_buffer("text", text)
        self.register_buffer("rows", classifier.text.get(ROWS))
        self.register_buffer("unit_vectors", torch.eye(text.shape[1]))
        self.register_buffer("mean", torch.tensor(backbone.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(backbone.std).view(1, 3, 1, 1))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[N, 3, S, S] -> logits [N, C], probabilities [N, C], features [N, E]."""
        vision = self.method.image_state((pixels - self.mean) / self.std, self.method.reads)
        if self.rows is None:
            scaled = self.method.logits(vision, {"text": self.unit_vectors}, self.head).float()
            logits = scaled @ self.text.T / self.temperature
        else:  # what it learned of each trained class is inside as well
            scaled = self.method.logits(vision, {"text": self.unit_vectors}, "unseen").float()
            text = {"text": self.text, ROWS: self.rows}
            logits = self.method.answer(vision, text, self.head).float() / self.temperature
        return logits, logits.softmax(dim=-1), scaled / self.scale


def require_export() -> None:
    """`UserError` naming what to install, unless the packages of the extra are there."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"export needs the package {missing[0]}: pip install 'anprompt[export]'.")


def export_onnx(
    method: Method, out: str | Path, classnames: Sequence[str] | None = None, *, head: str = "auto",
    opset: int = OPSET, check: bool = True, overwrite: bool = False,
) -> Exported:  # fmt: skip
    """Write `out` (model.onnx) and the JSON of the same name beside it.

    Args:
        method: on the CPU, its backbone in fp32.
        classnames: baked in; None takes the trained ones.
        head: "auto", "trained" or "unseen", as in `Classifier`.
        opset: ONNX operator set, one of `OPSETS`.
        check: compare with the method by onnxruntime; a file that differs is not kept.
        overwrite: replace files that are there.

    Raises:
        UserError: the extra is not installed, a method or a size that has no such file, a file in the way,
            or answers that differ.
    """
    path, facts_path = check_target(out, opset, overwrite)
    _check_method(method)
    classifier = Classifier(method, classnames, head)
    portable = Portable(classifier).eval()
    model = _traced(portable, opset)
    facts = describe(classifier, opset)
    _label(model, facts)
    found: dict[str, float] = {}

    def write(temporary: Path) -> None:
        temporary.write_bytes(model.SerializeToString())
        if check:
            found.update(differences(temporary, portable))
            _refuse_differences(found)

    atomic_write(path, write)
    data = path.read_bytes()
    facts |= {"file": path.name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(),
              "largest_difference": found or None}  # fmt: skip
    write_json(facts_path, facts)
    return Exported(path, facts_path, facts)


def text_matrix(method: Method, classnames: Sequence[str]) -> np.ndarray:
    """Unit text features of a class list, [C, E] fp32: `logit_scale * features @ text_matrix.T` are logits."""
    _check_method(method)
    return finite(Classifier(method, classnames).text["text"].detach().float().cpu(), method).numpy()


# --- what can't be exported -------------------------------------------------------------------------
def check_target(out: str | Path, opset: int = OPSET, overwrite: bool = False) -> tuple[Path, Path]:
    """The two files to write; all that can be wrong before a model is loaded.

    Raises:
        UserError: the extra is not installed, an unknown opset, no '.onnx' name, or a file in the way.
    """
    require_export()
    if opset not in OPSETS:
        raise UserError(f"Opset {opset} can't be written; choose one of {OPSETS.start} to {OPSETS.stop - 1}.")
    path = Path(out)
    if path.suffix.lower() != ".onnx" or path.is_dir():
        raise UserError(f"--out {str(path)!r} must be a file that ends in '.onnx', e.g. model.onnx.")
    facts = path.with_suffix(".json")
    # A kill between the two files leaves a model without facts: the same command goes on from there.
    unfinished: tuple[bytes, ...] | Callable[[bytes], bool] = () if facts.exists() else _is_model_of_ours
    check_output(path, overwrite=overwrite, ours=unfinished)
    check_output(facts, overwrite=overwrite)
    return path, facts


def _is_model_of_ours(head: bytes) -> bool:
    """By the first bytes of an ONNX file, which hold its format and who made it."""
    return b"\x12\x08anprompt" in head[:32]


def _check_method(method: Method) -> None:
    if method.name == "cocoop":
        raise UserError(
            "CoCoOp can't be exported: its text features depend on the picture, so there is no text matrix to "
            "bake in and every picture would run the whole text tower. Train another method, e.g. coop or maple."
        )
    backbone = method.backbone
    if backbone.dtype != torch.float32 or backbone.device.type != "cpu":
        raise UserError(
            f"The backbone is in {str(backbone.dtype).removeprefix('torch.')} on {backbone.device}; "
            "files are exported from fp32 on the CPU. Load the adapter without --device and --dtype."
        )


# --- tracing ----------------------------------------------------------------------------------------
def _traced(portable: Portable, opset: int) -> Any:
    """The ONNX model, without the traces of this machine's folders that the exporter leaves in it."""
    size = portable.backbone.dims.image_size
    sample = torch.full((2, 3, size, size), 0.5)  # 2, as 0 and 1 are special to the tracer
    with torch.no_grad(), _silent():
        try:
            traced = torch.export.export(
                portable, (sample,), dynamic_shapes=({0: torch.export.Dim("batch")},), strict=False
            )
            program = torch.onnx.export(
                traced, (), dynamo=True, opset_version=opset, input_names=["pixels"],
                output_names=list(OUTPUTS), verbose=False,
            )  # fmt: skip
        except Exception as error:  # the tracer raises a dozen types
            reason = first_line(error)
            raise UserError(
                f"Method {portable.method.name!r} on {portable.backbone.id!r} can't be traced: {reason}."
            ) from error
    assert program is not None
    taken = _weight_bytes(program)
    if taken > LARGEST:
        raise UserError(
            f"The weights take {taken / 2**30:.1f} GiB; a single ONNX file holds 2 GiB. Export a smaller backbone."
        )
    return program.model_proto


def _weight_bytes(program: Any) -> int:
    values = program.model.graph.initializers.values()
    return sum(value.const_value.nbytes for value in values if value.const_value is not None)


@contextmanager
def _silent() -> Iterator[None]:
    """Without the exporter's remarks on packages that are not needed here."""
    loud = logging.getLogger("torch.onnx")
    before = loud.level
    loud.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        loud.setLevel(before)


def _label(model: Any, facts: dict[str, Any]) -> None:
    """Name the maker, hold the facts, drop stack traces (paths of this machine) from nodes and values."""
    graph = model.graph
    for part in (*graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer, graph):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    for function in model.functions:
        function.ClearField("metadata_props")
        for node in function.node:
            node.ClearField("metadata_props")
            node.ClearField("doc_string")
    model.ClearField("metadata_props")
    model.producer_name, model.producer_version = "anprompt", __version__
    entry = model.metadata_props.add()
    entry.key, entry.value = "anprompt", json.dumps(facts)


# --- facts ------------------------------------------------------------------------------------------
def describe(classifier: Classifier, opset: int) -> dict[str, Any]:
    """What a user of the file must know; no times or paths, so that equal models give equal files."""
    method, backbone = classifier.method, classifier.method.backbone
    return {
        "format": FORMAT,
        "classes": list(classifier.classnames),
        **({"labels": list(method.labels)} if method.labels and classifier.classnames == method.trained_classnames else {}),
        "input": {
            "name": "pixels", "shape": ["batch", 3, backbone.dims.image_size, backbone.dims.image_size],
            "range": [0.0, 1.0], "colours": "RGB", "mean": list(backbone.mean), "std": list(backbone.std),
            "normalised_inside": True,
        },
        "picture": {
            "size": backbone.dims.image_size, "longest": 8,
            "rule": "the largest page, the first frame; upright by EXIF; levels scaled to 8 bits by what they use: whole "
                    "numbers by the fewest of 1, 8, 10, 12, 14 and 16 bits that hold the largest, fractions by 1 or "
                    "255, others stretched from the least to the largest; transparency over white, over black where "
                    "white hides three quarters of the drawing; RGB; of more than 25,000,000 pixels a half, a quarter "
                    "or an eighth of the sides; of a picture more than `longest` times as "
                    "long as wide the middle; short side to `size`, bicubic, long side rounded down; centre cut "
                    "out, offsets rounded; divided by 255",
        },
        "outputs": list(OUTPUTS),
        "logit_scale": method.logit_scale / getattr(classifier, "temperature", 1.0),
        "head": classifier.head,
        "method": method.name,
        "preset": method.preset or method.name,
        "template": method.template,
        "backbone": {"id": Path(backbone.id).name, "weight_hash": backbone.weight_hash},
        "opset": opset,
        "versions": {"anprompt": __version__, **package_versions(_LIBRARIES, "unknown")},
    }  # fmt: skip


# --- check ------------------------------------------------------------------------------------------
def differences(path: Path, portable: Portable) -> dict[str, float]:
    """Largest absolute differences of each output from the method's, over random and embedded pictures.

    The logits' is divided by the logit scale: it is the difference of similarities.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    size, found = portable.backbone.dims.image_size, dict.fromkeys(OUTPUTS, 0.0)
    for pixels in (_random_pixels(size, 3), _embedded_pixels(size, 2), _random_pixels(size, 1)):
        answers = session.run(list(OUTPUTS), {"pixels": pixels})
        with torch.no_grad():
            expected = portable(torch.from_numpy(pixels))
        for name, ours, theirs in zip(OUTPUTS, expected, answers):
            scale = portable.scale if name == "logits" else 1.0
            gaps = np.abs(ours.numpy().astype(np.float64) - theirs)
            # max() would pass over NaN
            worst = float(gaps.max()) if np.isfinite(gaps).all() else float("nan")
            found[name] = worst if math.isnan(worst) else max(found[name], worst / scale)
            if math.isnan(worst):
                return found
    return found


def _refuse_differences(found: dict[str, float]) -> None:
    for name, value in found.items():
        if math.isnan(value):
            raise UserError(
                f"The exported {name} or the method's are not finite numbers; the file was not kept. The adapter or "
                "its backbone is broken: try it with 'anprompt eval'."
            )
        if not value <= TOLERANCE:
            raise UserError(
                f"The exported {name} differ from the method's by {value:.1e}, more than {TOLERANCE:.0e}; the "
                "file was not kept. Try another --opset, or report it with the versions of torch and onnx."
            )


def _random_pixels(size: int, count: int) -> np.ndarray:
    return np.random.default_rng(count).random((count, 3, size, size), dtype=np.float32)


def _embedded_pixels(size: int, count: int) -> np.ndarray:
    from anprompt.data.embedded import embedded_dataset

    data = embedded_dataset("food")
    views = [centre_view(data.read(item), size) for item in data.test[:: len(data.test) // count][:count]]
    return np.stack(views).transpose(0, 3, 1, 2).astype(np.float32) / 255
