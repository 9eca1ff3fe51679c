"""What is thrown at every parser, and what must come of it: a value or a `UserError` of one printable line.

`tests/test_fuzz.py` runs a few examples of each target, `benchmarks/fuzz.py` thousands.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy
from PIL import Image

from anprompt.adapters.adapter import CONFIG, TENSORS, load_adapter
from anprompt.adapters.official_checkpoints import from_state, read_state
from anprompt.backbones import Backbone
from anprompt.commands._shared.parser import setting
from anprompt.commands._shared.terminal import safe
from anprompt.commands.predict import class_list
from anprompt.data.classic.coop import read_split, synset_names
from anprompt.data.images import decode_picture
from anprompt.data.splits import clean_classnames
from anprompt.data.table import table_dataset
from anprompt.errors import UserError
from anprompt.evaluation.conditions import Condition
from anprompt.experiments.records import read_records
from anprompt.methods import check_template, method_class, methods, parse_preset
from anprompt.training.descriptions import read_descriptions
from anprompt.training.loop import TrainConfig, TrainLog
from anprompt.training.settings import split_settings
from anprompt.training.state import FILE, load_state, save_state
from anprompt.utils.files import read_tensors

from . import report_runs

SECONDS = 10.0  # of processor time for one input, on a machine of any pace
LONGEST_LINE = 1500

SPLIT = {
    part: [[f"cat/{i}.jpg", 0, "cat"], [f"dog/{i}.jpg", 1, "dog"]] for i, part in enumerate(("train", "val", "test"))
}
DESCRIPTIONS = {"cat": ["A cat has whiskers.", "It purrs."], "dog": ["A dog barks."]}
PRESET = """method = "mmrl"
extends = "mmrl"
[settings]
n_tokens = 5
head_weight = 0.7
[train]
lr = 1e-3
crop_scale = [0.5, 1.0]
[protocol.few-shot.shots.1.train]
epochs = 5
[protocol.base-to-new.dataset.dtd.settings]
token_width = 64
"""


class World:
    """Sound files to spoil, in a folder of their own."""

    def __init__(self, folder: Path, backbone: Backbone, adapter: Path) -> None:
        self.folder, self.backbone = folder, backbone
        self.adapter = Path(shutil.copytree(adapter, folder / "adapter"))
        self.config = json.loads((adapter / CONFIG).read_text())
        self.tensors = (adapter / TENSORS).read_bytes()
        for name in ("a", "b"):
            Image.new("RGB", (6, 5), (200 if name == "a" else 20, 90, 40)).save(folder / f"{name}.png")
        self.method = load_adapter(adapter, backbone=backbone)
        self.optimizer = torch.optim.AdamW(self.method.parameters(), 1e-3)
        save_state(folder / "state", self.method, self.optimizer, "run", TrainLog())
        self.state = (folder / "state" / FILE).read_bytes()
        prompts = {"state_dict": {"ctx": torch.zeros(4, backbone.dims.text_width)}, "epoch": 5}
        buffer = io.BytesIO()
        torch.save(prompts, buffer)
        self.field = buffer.getvalue()

    def write(self, name: str, content: str | bytes) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
        return path


# --- inputs ---------------------------------------------------------------------------------------
ANY_TEXT = st.text(st.characters(), max_size=40)
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 5), st.integers(-(2**70), 2**70), st.floats(), ANY_TEXT,
    st.sampled_from(["", "..", "/etc/passwd", "\x1b[31m", "\u202e", "a" * 400, 10**400, 1e308, -0.0]),
)  # fmt: skip
ANY_JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ANY_TEXT, inner, max_size=4), max_leaves=8
)


@st.composite
def mutated(draw: DrawFn, sound: Any) -> Any:
    """A sound JSON value with one to three places dropped, replaced, repeated or renamed."""
    value = copy.deepcopy(sound)
    for _ in range(draw(st.integers(1, 3))):
        value = _changed(draw, value)
    return value


def _changed(draw: DrawFn, value: Any) -> Any:
    if not isinstance(value, (dict, list)) or not value or draw(st.integers(0, 7)) == 0:
        return draw(ANY_JSON)
    keys = sorted(value, key=str) if isinstance(value, dict) else list(range(len(value)))
    key = draw(st.sampled_from(keys))
    action = draw(st.sampled_from(("deeper", "deeper", "deeper", "drop", "replace", "again")))
    if action == "drop":
        del value[key]
    elif action == "again":
        if isinstance(value, list):
            value.append(copy.deepcopy(value[key]))
        else:
            value[draw(ANY_TEXT)] = copy.deepcopy(value[key])
    else:
        value[key] = _changed(draw, value[key]) if action == "deeper" else draw(ANY_JSON)
    return value


def json_text(sound: Any) -> SearchStrategy[str]:
    """JSON near a sound one, any JSON, and any text."""
    return st.one_of(mutated(sound).map(json.dumps), mutated(sound).map(json.dumps), ANY_JSON.map(json.dumps),
                     ANY_TEXT, st.sampled_from(["[" * 5000, '{"a":' * 3000, "1" * 6000, "\ufeff{}"]))  # fmt: skip


@st.composite
def spoiled(draw: DrawFn, sound: bytes) -> bytes:
    """Bytes with some of them changed, cut out or put in, mostly near the beginning."""
    data = bytearray(sound)
    for _ in range(draw(st.integers(1, 4))):
        last = max(len(data) - 1, 0)
        at = min(draw(st.one_of(st.integers(0, 200), st.integers(0, last))), last)
        action = draw(st.sampled_from(("set", "set", "cut", "put", "end")))
        if action == "set" and data:
            data[at] = draw(st.integers(0, 255))
        elif action == "cut":
            del data[at : at + draw(st.integers(1, 64))]
        elif action == "put":
            data[at:at] = draw(st.binary(min_size=1, max_size=16))
        else:
            del data[at:]
    return bytes(data)


@st.composite
def headers(draw: DrawFn, sound: bytes) -> bytes:
    """A safetensors file whose header says other things, or has another length."""
    size = int.from_bytes(sound[:8], "little")
    header = draw(mutated(json.loads(sound[8 : 8 + size])))
    text = json.dumps(header).encode()
    length = draw(st.one_of(st.just(len(text)), st.just(len(text)), st.integers(0, 2**64 - 1)))
    return length.to_bytes(8, "little") + text + sound[8 + size :]


def lines_near(sound: str, words: list[str]) -> SearchStrategy[str]:
    """Text made of the pieces of a sound one, or all of it with pieces put in."""
    pieces = st.one_of(st.sampled_from([*sound.splitlines(keepends=True), *words]), ANY_TEXT)
    made = st.lists(pieces, max_size=12).map("".join)
    place = st.integers(0, len(sound))
    return made | st.tuples(place, made, st.integers(0, 8)).map(lambda t: sound[: t[0]] + t[1] + sound[t[0] + t[2] :])


# --- targets --------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Target:
    """A parser: what goes in, and how it is called."""

    inputs: Callable[[World], SearchStrategy[Any]]
    parse: Callable[[World, Any], Any]


def _adapter(world: World, config: str | None = None, tensors: bytes | None = None) -> Any:
    world.write(f"adapter/{CONFIG}", json.dumps(world.config) if config is None else config)
    world.write(f"adapter/{TENSORS}", world.tensors if tensors is None else tensors)
    return load_adapter(world.adapter, backbone=world.backbone)


def _unsealed(world: World) -> dict[str, Any]:
    """Without the checksum, which would catch everything else first."""
    return {key: value for key, value in world.config.items() if key != "tensors_sha256"}


def _header(world: World, data: bytes) -> None:
    _adapter(world, json.dumps(_unsealed(world)), data)
    read_tensors(world.adapter / TENSORS)


def _records(world: World, text: str) -> Any:
    from anprompt import report, tables
    from anprompt.report.collect import read

    folder = world.write("runs/record.json", text).parent
    records = read_records(folder)
    assert len(read([folder])) == len(records)
    sheets = tables.sheets(records)
    assert "<script" not in tables.to_markdown(sheets).lower()
    tables.to_latex(sheets), tables.to_csv(sheets)
    for sheet in sheets:
        tables.to_terminal(sheet)
    page = report.render(records)
    assert "<script" not in page.lower()
    return page


def _state(world: World, data: bytes) -> Any:
    return load_state(world.write(f"state/{FILE}", data).parent, world.method, world.optimizer, "run")


def _preset(world: World, text: str) -> None:
    values = parse_preset("made", text)
    if values["method"] in methods():
        method_class(values["method"]).Config.from_dict(values.get("settings", {}))
    TrainConfig.from_dict(values.get("train", {}))


def _set(world: World, text: str) -> None:
    try:
        pair = setting(text)
    except argparse.ArgumentTypeError as error:
        raise UserError(str(error)) from None
    settings, train = split_settings("anprompt", dict([pair]))
    method_class("anprompt").Config.from_dict(settings)
    TrainConfig.from_dict(train)


def _template(world: World, text: str) -> None:
    check_template(text)
    world.backbone.tokenize([text.format("cat")])


def _classes(world: World, text: str) -> None:
    names = class_list(f"@{world.write('classes.txt', text)}")
    clean_classnames(names)
    world.backbone.tokenize(names)


def _field(world: World, data: bytes) -> None:
    from_state(read_state(world.write("model.pth.tar-5", data)), world.backbone, ["cat", "dog"])


def _request(world: World, body: bytes) -> None:
    from anprompt.serve.forms import read_ask
    from anprompt.serve.settings import Settings

    read_ask("application/json", body, Settings())


def _strange_host(world: World, text: str) -> None:
    from anprompt.serve.settings import known_host, same_origin

    if same_origin(text, text.partition("://")[2]):
        assert text.lower().startswith(("http://", "https://"))
    if known_host(text, ()):
        assert not set(text) & set("@%/# ")


def _shown(world: World, text: str) -> None:
    assert safe(text).isprintable()


def sound_images() -> list[tuple[str, bytes]]:
    """A small image in every format that can be written here."""
    found = []
    for kind in ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "ICO", "JPEG2000", "AVIF"):
        buffer = io.BytesIO()
        with contextlib.suppress(KeyError, OSError, ValueError):  # a Pillow without that format
            Image.new("RGB", (16, 16), (9, 99, 199)).save(buffer, kind)
            found.append((kind, buffer.getvalue()))
    return found


def _form(world: World, body: bytes, kind: str = "multipart/form-data; boundary=x") -> None:
    from anprompt.serve.forms import BadType, read_ask
    from anprompt.serve.settings import Settings

    try:
        read_ask(kind, body, Settings())
    except BadType as error:
        raise UserError(str(error)) from None


REQUEST = {"pictures": ["aGVsbG8="], "classes": ["cat", "dog"], "top": 3, "noise": "fog:3", "zeroshot": True}
FORM = (
    b'--x\r\nContent-Disposition: form-data; name="classes"\r\n\r\ncat\ndog\r\n'
    b'--x\r\nContent-Disposition: form-data; name="top"\r\n\r\n3\r\n'
    b'--x\r\nContent-Disposition: form-data; name="pictures"; filename="a"\r\nContent-Type: image/png\r\n\r\nGIF89a\r\n--x--\r\n'
)
RECORD = report_runs.halves(("cats",), ("anprompt",), (1,))[0]
CONDITIONS = ["image:fog:3", "text:typo:2", "template:unseen:1", ":", "image:", "9" * 5000, "٣"]

TARGETS: dict[str, Target] = {
    "adapter config": Target(lambda w: json_text(_unsealed(w)), lambda w, text: _adapter(w, text)),
    "adapter tensors": Target(lambda w: spoiled(w.tensors), _header),
    "tensor header": Target(lambda w: headers(w.tensors), _header),
    "training state": Target(lambda w: spoiled(w.state) | headers(w.state), _state),
    "official checkpoint": Target(lambda w: spoiled(w.field), _field),
    "split": Target(lambda w: json_text(SPLIT), lambda w, text: read_split(w.write("split.json", text))),
    "synset names": Target(
        lambda w: lines_near("n01 tench\nn02 goldfish\n", [" ", "\n"]),
        lambda w, text: synset_names(w.write("classnames.txt", text)),
    ),
    "table": Target(
        lambda w: lines_near("path,label,split\na.png,x,train\nb.png,y,test\n",
                             [",", ";", "\t", '"', "\0", "path,label\n", "../b.png,y\n", "a.png,x\n", "b.png,y\n"]),
        lambda w, text: table_dataset(w.write("table.csv", text)),
    ),
    "descriptions": Target(
        lambda w: json_text(DESCRIPTIONS), lambda w, text: read_descriptions(w.write("descriptions.json", text))
    ),
    "preset": Target(lambda w: lines_near(PRESET, ["[", "]", "=", "1979-05-27\n", 'x = "y"\n']), _preset),
    "class list": Target(lambda w: st.one_of(ANY_TEXT, lines_near("cat\ndog\n", [",", "\r", "_"])), _classes),
    "condition": Target(
        lambda w: st.lists(st.sampled_from(CONDITIONS) | ANY_TEXT, max_size=4).map("".join),
        lambda w, text: Condition.parse(text),
    ),
    "record": Target(lambda w: json_text(RECORD), _records),
    "template": Target(lambda w: st.lists(st.sampled_from(["{}", "{", "}", "a photo "]) | ANY_TEXT).map("".join), _template),
    "--set": Target(
        lambda w: st.tuples(st.sampled_from(["n_tokens", "lr", "beta", "noise_ops", "flip", "crop_scale", "x"]),
                            ANY_TEXT | st.sampled_from(["[1,2]", "1" * 400, "nan", "1e400", ",", "[[", "٣"])).map("=".join),
        _set,
    ),
    "request": Target(lambda w: json_text(REQUEST).map(lambda t: t.encode("utf-8", "surrogatepass")), _request),
    "picture": Target(lambda w: st.sampled_from([data for _, data in sound_images()]).flatmap(spoiled), lambda w, data: decode_picture(data, "it")),
    "terminal": Target(lambda w: ANY_TEXT, _shown),
    "form": Target(
        lambda w: st.one_of(
            spoiled(FORM), lines_near(FORM.decode("latin-1"), ["--x", "--x--", "\r\n", ": ", ";", '"', "filename="])
            .map(lambda text: text.encode("utf-8", "surrogatepass")),
        ), _form,
    ),
    "content type": Target(
        lambda w: lines_near("multipart/form-data; boundary=x; charset=utf-8", ["application/json", ";", "=", '"', "\\"]),
        lambda w, text: _form(w, FORM, text),
    ),
    "host and origin": Target(
        lambda w: lines_near("http://localhost:80", ["[", "]", "::1", "%", "@", ":", "127.0.0.1", "."]), _strange_host
    ),
}  # fmt: skip


def attempt(target: Target, world: World, value: Any) -> bool:
    """Whether a value came of it; a `UserError` of one printable line is as good.

    Raises:
        Exception: anything else, which is a finding.
    """
    started = time.process_time()
    try:
        target.parse(world, value)
        return True
    except UserError as error:
        line = str(error)
        assert line.strip() and line.isprintable() and len(line) < LONGEST_LINE, line
        return False
    finally:
        assert time.process_time() - started < SECONDS
