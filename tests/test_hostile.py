"""Files from strangers: nothing in them is run, written elsewhere, or believed about sizes (docs/security.md)."""

from __future__ import annotations

import io
import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from anprompt.adapters.adapter import CARD, CONFIG, TENSORS, load_adapter, read_config, save_adapter, write_record
from anprompt.adapters.checks import Bounded
from anprompt.adapters.official_checkpoints import read_state
from anprompt.backbones import Backbone, load_backbone
from anprompt.commands._shared.terminal import safe
from anprompt.commands.main import main
from anprompt.data.splits import clean_classnames
from anprompt.errors import UserError
from anprompt.methods import build_method
from anprompt.utils.files import LARGEST_HEADER, read_json, read_tensors

BIDI = "\u202e"


@pytest.fixture
def adapter(adapter_folder: Path, tmp_path: Path) -> Path:
    """A copy of a sound adapter, to spoil."""
    return Path(shutil.copytree(adapter_folder, tmp_path / "stranger"))


def edit(adapter: Path, **values: Any) -> Path:
    """Change the config; `settings__rank` reaches into a table. The checksum goes: strangers can compute it."""
    config = json.loads((adapter / CONFIG).read_text())
    config.pop("tensors_sha256")
    for key, value in values.items():
        *above, last = key.split("__")
        target = config
        for part in above:
            target = target[part]
        target[last] = value
    (adapter / CONFIG).write_text(json.dumps(config))
    return adapter


def refused(adapter: Path, backbone: Backbone) -> str:
    """The line that refuses an adapter."""
    with pytest.raises(UserError) as caught:
        load_adapter(adapter, backbone=backbone)
    line = str(caught.value)
    assert line.isprintable()
    return line


@pytest.mark.parametrize("value", [10**9, 1e300])
def test_a_setting_s_name_is_shown_printable(adapter: Path, tiny_backbone: Backbone, value: float) -> None:
    assert "\\x1f" in refused(edit(adapter, **{"settings__\x1f": value}), tiny_backbone)


# --- tensors --------------------------------------------------------------------------------------
def header_file(path: Path, header: Any, data: bytes = b"", length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return path


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, LARGEST_HEADER + 1, 10**6])
def test_a_header_of_impossible_length_is_not_read(tmp_path: Path, length: int) -> None:
    with pytest.raises(UserError, match="header"):
        read_tensors(header_file(tmp_path / "x.safetensors", {}, length=length))


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [10**9, 10**9], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [2**63, 2**63], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1], "data_offsets": [0, 2**62]},
        {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]},
        {"dtype": "OBJECT", "shape": [1], "data_offsets": [0, 4]},
        {"dtype": "F32"},
        [],
    ],
)
def test_headers_that_lie_about_sizes_are_refused(tmp_path: Path, entry: Any) -> None:
    path = header_file(tmp_path / "x.safetensors", {"a": entry}, b"\0\0\0\0")
    with pytest.raises(UserError, match=r"x\.safetensors"):
        read_tensors(path)


def test_pipes_and_devices_are_not_opened(tmp_path: Path) -> None:
    """Reading one would wait for ever, or never end."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name in ("pipe", "zero"):
        for read in (read_json, read_tensors):
            with pytest.raises(UserError, match="not a regular file"):
                read(tmp_path / name)


def test_json_has_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.json").write_text('{"a": 1e999}')
    with pytest.raises(UserError, match="not a finite number"):
        read_json(tmp_path / "x.json")
    monkeypatch.setattr("anprompt.utils.files.LARGEST_JSON", 5)
    with pytest.raises(UserError, match="more than 5"):
        read_json(tmp_path / "x.json")


SPOIL: dict[str, tuple[Callable[[dict], Any], str]] = {
    "NaN": (lambda t: t.update(tokens=torch.full_like(t["tokens"], torch.nan)), "NaN"),
    "Inf": (lambda t: t.update(tokens=torch.full_like(t["tokens"], torch.inf)), "Inf"),
    "more than fp32 holds": (lambda t: t.update(tokens=torch.full(t["tokens"].shape, 1e300, dtype=torch.float64)), "Inf"),
    "eight bits": (lambda t: t.update(tokens=t["tokens"].to(torch.float8_e4m3fn)), "float8"),
    "complex": (lambda t: t.update(tokens=t["tokens"].to(torch.complex64)), "tokens"),
    "transposed": (lambda t: t.update(tokens=t["tokens"].T.contiguous()), "shape"),
    "surplus": (lambda t: t.update({"../../evil": torch.zeros(1)}), "../../evil"),
    "missing": (lambda t: t.pop("tokens"), "tokens"),
}  # fmt: skip


@pytest.mark.parametrize("case", SPOIL)
def test_tensors_are_refused_by_name(case: str, adapter: Path, tiny_backbone: Backbone) -> None:
    change, word = SPOIL[case]
    tensors = load_file(adapter / TENSORS)
    change(tensors)
    try:
        save_file(tensors, adapter / TENSORS)
    except (KeyError, RuntimeError, TypeError, ValueError):
        pytest.skip("this version of safetensors does not write such a tensor")
    assert word in refused(edit(adapter), tiny_backbone)


def test_a_changed_number_is_noticed(adapter: Path, tiny_backbone: Backbone) -> None:
    """Damage that leaves every number finite: one bit."""
    data = bytearray((adapter / TENSORS).read_bytes())
    data[-3] ^= 1
    (adapter / TENSORS).write_bytes(data)
    assert "checksum" in refused(adapter, tiny_backbone)
    load_adapter(edit(adapter), backbone=tiny_backbone)  # adapters from before there were checksums still open


# --- config ---------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "settings",
    [
        {"n_tokens": 99_999, "token_width": 99_999},
        {"token_width": 90_000, "rank": 90_000},
        {"projection_rank": 99_999, "n_tokens": 99_999},
    ],
)
def test_settings_cannot_ask_for_memory(adapter: Path, tiny_backbone: Backbone, settings: dict[str, int]) -> None:
    """Each is small by itself; the product of two would fill the machine."""
    config = json.loads((adapter / CONFIG).read_text())
    line = refused(edit(adapter, settings={**config["settings"], **settings}), tiny_backbone)
    assert "settings" in line or "setting" in line


def test_the_bound_is_met_before_memory_is_asked_for() -> None:
    with Bounded(1000):
        torch.zeros(1000, 10)
        with pytest.raises(MemoryError, match=r"10000000000, 10000000000"):
            torch.empty(10**10, 10**10)
        with pytest.raises(MemoryError):
            torch.nn.Linear(10**6, 10**6)


CONFIGS: dict[str, dict[str, Any]] = {
    "a path out of the folder": {"backbone__id": "../../model"},
    "a path into the adapter": {"backbone__id": "stranger/files/model/evil"},
    "a file of open_clip weights": {"backbone__id": "open-clip:ViT-B-32/stranger/evil.pt"},
    "a web address": {"backbone__id": "https://evil.example/model"},
    "control characters in a class": {"classnames": ["\x1b[2J", "b", "c", "d"]},
    "a class that turns the line around": {"classnames": [f"a{BIDI}b", "b", "c", "d"]},
    "a class of surrogates": {"classnames": ["\ud800", "b", "c", "d"]},
    "an empty class": {"classnames": ["", "b", "c", "d"]},
    "control characters in the template": {"template": "\x1b[31m {}"},
    "a surrogate in the template": {"template": "\ud800 {}"},
    "format tricks in the template": {"template": "{0.__class__} {}"},
    "a negative seed": {"seed": -1},
    "a huge seed": {"seed": 2**70},
    "descriptions of numbers": {"descriptions": {"a": 1}},
    "a preset by a path": {"preset": "../../etc/passwd", "method": "../../etc/passwd"},
    "versions of another kind": {"versions": []},
    "a record of another kind": {"record": [1]},
    "a temperature of words": {"record": {"calibration": {"temperature": "hot"}}},
}


@pytest.mark.parametrize("case", CONFIGS)
def test_configs_are_refused(case: str, adapter: Path, tiny_backbone: Backbone) -> None:
    assert "stranger" in refused(edit(adapter, **CONFIGS[case]), tiny_backbone)


@pytest.mark.parametrize("name", ["embedded", "openai/clip-vit-base-patch16", "open-clip:ViT-B-32/laion2b_s34b_b79k",
                                  "open-clip:hf-hub:org/model", "/a/folder"])  # fmt: skip
def test_names_of_backbones_that_are_fine(name: str, adapter: Path) -> None:
    assert read_config(edit(adapter, backbone__id=name))["backbone"]["id"] == name


# --- the folder -----------------------------------------------------------------------------------
def test_a_linked_new_folder_moves_and_writes_nothing(adapter: Path, tiny_backbone: Backbone, tmp_path: Path) -> None:
    """`.new/` is moved into place by the next save; a link there would empty a folder of the user's."""
    mine = tmp_path / "mine"
    mine.mkdir()
    for name in (CONFIG, CARD, TENSORS, "letter.txt"):
        (mine / name).write_text("mine")
    (adapter / ".new").symlink_to(mine)
    method = load_adapter(adapter, backbone=tiny_backbone)  # reads its own files, not those behind the link
    with pytest.raises(UserError, match="is a link"):
        save_adapter(adapter, method)
    write_record(adapter, {"note": "x"})
    assert {p.name: p.read_text() for p in mine.iterdir()} == dict.fromkeys(
        (CONFIG, CARD, TENSORS, "letter.txt"), "mine"
    )


def test_linked_files_are_neither_replaced_nor_followed(adapter: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_text("mine")
    (adapter / CARD).unlink()
    (adapter / CARD).symlink_to(mine)
    with pytest.raises(UserError, match=r"is a link to .*mine"):
        write_record(adapter, {"note": "x"})
    assert mine.read_text() == "mine" and (adapter / CARD).is_symlink()


def test_a_linked_state_folder_is_refused(
    photo_folder: Path, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine, out = tmp_path / "mine", tmp_path / "out"
    mine.mkdir()
    out.mkdir()
    (out / ".state").symlink_to(mine)
    words = ["fit", "--data", str(photo_folder), "--backbone", str(tiny_folder), "--out", str(out), "--shots", "1"]
    assert main([*words, "--epochs", "1", "--set", "token_width=8"]) == 2
    assert "is a link" in capsys.readouterr().err and not any(mine.iterdir())


def test_the_card_has_no_control_characters(adapter: Path) -> None:
    edit(adapter, preset=f"a\x1b]0;x\x07{BIDI}`<b>", versions={"anprompt": "\x1b[2J|"})
    write_record(adapter, {"\x1b[31m": f"{BIDI}[x](y)"})
    text = (adapter / CARD).read_text()
    assert all(line.isprintable() for line in text.splitlines())
    assert "\\[x\\](y)" in text and "\\<b\\>" in text


# --- code beside weights --------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["clip", "anything"])
def test_code_beside_a_model_is_neither_run_nor_asked_about(
    kind: str, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers asks on the terminal whether to run it; nobody is asked here."""
    model = Path(shutil.copytree(tiny_folder, tmp_path / "model"))
    config = json.loads((model / "config.json").read_text())
    names = {"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil"}
    (model / "config.json").write_text(json.dumps({**config, "model_type": kind, "auto_map": names}))
    (model / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: pass\n")

    def asked(*_: Any) -> str:
        raise AssertionError("the user was asked")

    monkeypatch.setattr("builtins.input", asked)
    if kind == "clip":
        load_backbone(str(model))
    else:
        with pytest.raises(UserError, match="model"):
            load_backbone(str(model))
    assert not (tmp_path / "ran").exists()


def test_compressed_checkpoints_are_not_unpacked(tmp_path: Path) -> None:
    """A small zip may hold any amount of zeros."""
    sound, packed = tmp_path / "sound.pth", tmp_path / "packed.pth"
    torch.save({"state_dict": {"ctx": torch.zeros(1000, 100)}}, sound)
    with zipfile.ZipFile(sound) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry))
    assert packed.stat().st_size < sound.stat().st_size / 10
    read_state(sound)
    with pytest.raises(UserError, match="compressed"):
        read_state(packed)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(1).expand(10**6, 10**6),
        torch.empty(10**6, 10**6, device="meta"),
        torch.sparse_coo_tensor(
            torch.zeros(2, 1, dtype=torch.long), torch.ones(1), (10**6, 10**6), check_invariants=True
        ),
    ],
    ids=["expanded", "meta", "sparse"],
)
def test_tensors_that_are_not_there_are_refused(tensor: torch.Tensor, tmp_path: Path) -> None:
    """A few bytes that claim to be a matrix of 4 TB."""
    torch.save({"state_dict": {"ctx": tensor}}, tmp_path / "model.pth.tar-5")
    assert (tmp_path / "model.pth.tar-5").stat().st_size < 10_000
    with pytest.raises(UserError, match="'ctx' is not stored whole"):
        read_state(tmp_path / "model.pth.tar-5")


# --- what is shown --------------------------------------------------------------------------------
NASTY = [
    "\x1b[31mred",
    "\x1b]0;title\x07",
    "a\r\nb",
    f"abc{BIDI}gpj.exe",
    "\u2066x\u2069",
    "\x9b31m",
    "\u200b",
    "\ud800",
]


@pytest.mark.parametrize("text", NASTY)
def test_a_terminal_shows_escapes_and_obeys_none(text: str) -> None:
    assert safe(text).isprintable() and safe(text) != text


@pytest.mark.parametrize("name", [name for name in NASTY if name not in ("\u200b", "a\r\nb")])
def test_class_names_that_move_the_text_around_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="rename it") as caught:
        clean_classnames([name, "cat"])
    assert str(caught.value).isprintable()


def test_names_in_other_scripts_stay_usable() -> None:
    """Right-to-left letters bring their direction with them, and joiners belong to some scripts."""
    names = ["חתול", "قطة", "क्‍ष", "zwölf", "猫"]
    assert clean_classnames(names) == names


def test_bombs_say_their_size(tmp_path: Path, capsys: pytest.CaptureFixture[str], adapter_folder: Path) -> None:
    buffer = io.BytesIO()
    Image.new("1", (12_000, 12_000)).save(buffer, "PNG")
    (tmp_path / "bomb.png").write_bytes(buffer.getvalue())
    assert main(["predict", str(adapter_folder), str(tmp_path / "bomb.png")]) == 2
    assert "144,000,000 pixels" in capsys.readouterr().err


def test_every_string_of_a_record_is_escaped() -> None:
    """Whatever a record says, it stays text in the page and in Markdown."""
    from anprompt import report, tables

    from .report_runs import halves

    evil = "<script>alert(1)</script>\"'><img src=x onerror=y>"
    told = {"protocol", "format", "finished", "labels", "predicted", "method", "preset", "spec_hash"}

    def spoil(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {k: spoil(v, k) for k, v in value.items()}
        if isinstance(value, list):
            return [spoil(entry) for entry in value]
        return evil + value if isinstance(value, str) and key not in told else value

    records = [spoil(record) for record in halves(("cats",))]
    html = report.render(records)
    assert "<script" not in html and "<img src=x" not in html and "&lt;script" in html
    text = tables.to_markdown(tables.sheets(records))
    assert "<script" not in text and "&lt;script" in text


def test_a_plain_method_opens_within_the_bounds(tiny_backbone: Backbone, tmp_path: Path) -> None:
    """Every method's own adapter is far within what is allowed."""
    for name in ("coop", "cocoop", "maple", "promptsrc", "mmrl", "mmrlpp", "anprompt"):
        method = build_method(name, tiny_backbone, ["cat", "dog"])
        load_adapter(save_adapter(tmp_path / name, method), backbone=tiny_backbone)
