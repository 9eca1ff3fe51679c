"""Wrong input of every kind: each gives one clear line on stderr and exit code 2, never a traceback."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from anprompt.commands.main import main


class World:
    """Sound input to spoil: a backbone, pictures, an adapter, and an empty folder to write in."""

    def __init__(self, tmp: Path, backbone: Path, photos: Path, adapter: Path) -> None:
        self.tmp, self.backbone, self.photos, self._adapter = tmp, backbone, photos, adapter

    def fit(self, *extra: Any) -> list[str]:
        words = ["fit", "--data", self.photos, "--backbone", self.backbone, "--out", self.tmp / "out",
                 "--shots", "2", "--epochs", "1", "--set", "token_width=8", *extra]  # fmt: skip
        return [str(word) for word in words]

    def eval(self, adapter: Any = None, *extra: Any) -> list[str]:
        return [str(word) for word in ("eval", adapter or self._adapter, "--data", self.photos, *extra)]

    def predict(self, *words: Any) -> list[str]:
        return [str(word) for word in ("predict", self._adapter, *words)]

    @property
    def picture(self) -> Path:
        return self.photos / "red_square" / "0.png"

    def file(self, name: str, content: str | bytes = "") -> Path:
        path = self.tmp / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def folder(self, *classes: str, pictures: int = 3) -> Path:
        root = self.tmp / "made"
        root.mkdir()
        for number, name in enumerate(classes):
            (root / name).mkdir()
            for index in range(pictures):
                Image.new("RGB", (9, 9), (40 * number, 9, index)).save(root / name / f"{index}.png")
        return root

    def adapter(
        self,
        config: Callable[[dict], Any] = lambda c: None,
        tensors: Callable[[dict], Any] = lambda t: None,
        remove: str = "",
    ) -> Path:
        """A copy of the sound adapter with its parts changed in place."""
        copy = Path(shutil.copytree(self._adapter, self.tmp / "adapter"))
        values = json.loads((copy / "config.json").read_text())
        config(values)
        (copy / "config.json").write_text(json.dumps(values))
        stored = load_file(copy / "adapter.safetensors")
        tensors(stored)
        save_file(stored, copy / "adapter.safetensors")
        if remove:
            (copy / remove).unlink()
        return copy

    def model(self, change: Callable[[Path], Any]) -> Path:
        """A copy of the backbone's folder, changed."""
        copy = Path(shutil.copytree(self.backbone, self.tmp / "model"))
        change(copy)
        return copy


@pytest.fixture
def world(tmp_path: Path, tiny_folder: Path, photo_folder: Path, adapter_folder: Path) -> World:
    return World(tmp_path, tiny_folder, photo_folder, adapter_folder)


def edit(name: str, **values: Any) -> Callable[[Path], None]:
    """Change values of a JSON file in a folder; `text_config__x` reaches into a table."""

    def change(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        for key, value in values.items():
            *path, last = key.split("__")
            target = content
            for part in path:
                target = target[part]
            target[last] = value
        (folder / name).write_text(json.dumps(content))

    return change


def cut(path: Path, keep: float = 0.5) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    return path


def put(**values: Any) -> Callable[[dict], None]:
    return lambda content: content.update(values)


LONG = "very " * 40 + "long name"

# id: (command line from a World, words the line must hold)
WORDS: dict[str, tuple[Callable[[World], list], str]] = {
    "command unknown": (lambda w: ["ft"], "Did you mean 'fit'?"),
    "command with capitals": (lambda w: ["Predict"], "Did you mean 'predict'?"),
    "global option unknown": (lambda w: ["--versoin"], "'--version'"),
    "option unknown": (lambda w: w.fit("--shot", "4"), "Did you mean '--shots'?"),
    "option without value": (lambda w: w.fit("--seed"), "--seed"),
    "required option missing": (lambda w: ["fit"], "--data"),
    "argument too many": (lambda w: w.fit("surplus"), "'surplus'"),
    "method to show unknown": (lambda w: ["methods", "mapel"], "Did you mean 'maple'?"),
    "data action unknown": (lambda w: ["data", "chekc"], "Did you mean 'check'?"),
    "data check without root": (lambda w: ["data", "check", "dtd"], "--root"),
    "data check name unknown": (lambda w: ["data", "check", "oxford_pet", "--root", "."], "'oxford_pets'"),
    "data list with name": (lambda w: ["data", "list", "dtd"], "data check"),
}
VALUES: dict[str, tuple[Callable[[World], list], str]] = {
    "shots 0": (lambda w: w.fit("--shots", "0"), "--shots"),
    "shots negative": (lambda w: w.fit("--shots", "-3"), "--shots"),
    "shots a word": (lambda w: w.fit("--shots", "abc"), "'abc'"),
    "shots a fraction": (lambda w: w.fit("--shots", "1.5"), "'1.5'"),
    "seed negative": (lambda w: w.fit("--seed", "-1"), "--seed"),
    "seed a word": (lambda w: w.fit("--seed", "one"), "'one'"),
    "seed by --set": (lambda w: w.fit("--set", "seed=3"), "--seed"),
    "lr 0": (lambda w: w.fit("--lr", "0"), "--lr"),
    "lr nan": (lambda w: w.fit("--lr", "nan"), "--lr"),
    "lr negative": (lambda w: w.fit("--lr", "-1"), "--lr"),
    "lr infinite": (lambda w: w.fit("--lr", "inf"), "--lr"),
    "lr a word": (lambda w: w.fit("--lr", "small"), "'small'"),
    "lr beyond all use": (lambda w: w.fit("--lr", "1e30"), "1,000,000,000"),
    "lr so high that training breaks": (lambda w: w.fit("--lr", "1e9", "--epochs", "3"), "Training broke"),
    "epochs 0": (lambda w: w.fit("--epochs", "0"), "--epochs"),
    "batch size 0": (lambda w: w.fit("--batch-size", "0"), "--batch-size"),
    "precision unknown": (lambda w: w.fit("--autocast", "bf61"), "Did you mean 'bf16'?"),
    "device unknown": (lambda w: w.fit("--device", "gpu"), "'gpu'"),
    "class half unknown": (lambda w: w.fit("--subset", "bse"), "Did you mean 'base'?"),
    "template without place": (lambda w: w.fit("--template", "a photo"), "'{}'"),
    "template with two places": (lambda w: w.fit("--template", "{} and {}"), "'{}'"),
    "template with a stray brace": (lambda w: w.fit("--template", "a {} or {name}"), "'{}'"),
    "template empty": (lambda w: w.fit("--template", ""), "'{}'"),
    "template longer than the context": (lambda w: w.fit("--template", LONG + " {}"), "tokens"),
    "set without equals": (lambda w: w.fit("--set", "rank"), "key=value"),
    "set without key": (lambda w: w.fit("--set", "=4"), "key=value"),
    "set key unknown": (lambda w: w.fit("--set", "n_token=4"), "Did you mean 'n_tokens'?"),
    "set wrong type": (lambda w: w.fit("--set", "n_tokens=many"), "n_tokens"),
    "set fraction for a count": (lambda w: w.fit("--set", "n_tokens=2.5"), "n_tokens"),
    "set boolean for a number": (lambda w: w.fit("--set", "beta=true"), "beta"),
    "set number for a boolean": (lambda w: w.fit("--set", "flip=1"), "flip"),
    "set nan": (lambda w: w.fit("--set", "noise_scale=nan"), "finite"),
    "set out of range": (lambda w: w.fit("--set", "beta=2"), "0..1"),
    "set choice unknown": (lambda w: w.fit("--set", "optimizer=adam"), "Did you mean 'adamw'?"),
    "set tokens 0": (lambda w: w.fit("--set", "n_tokens=0"), "n_tokens"),
    "set crop scale out of range": (lambda w: w.fit("--set", "crop_scale=[0.5,2]"), "crop_scale"),
    "set crop scale of words": (lambda w: w.fit("--set", "crop_scale=a,b"), "crop_scale"),
    "set weight decay negative": (lambda w: w.fit("--set", "weight_decay=-1"), "weight_decay"),
    "set blocks that are not there": (lambda w: w.fit("--set", "first_block=99"), "99"),
    "set noise operator unknown": (lambda w: w.fit("--set", "noise_ops=[tipo]"), "tipo"),
    "method unknown": (lambda w: w.fit("--method", "anpromt"), "Did you mean 'anprompt'?"),
    "method with nothing to train": (lambda w: ["fit", "--data", str(w.photos), "--backbone", str(w.backbone),
                                                "--method", "zeroshot", "--out", str(w.tmp / "o")], "nothing to train"),
    "head unknown": (lambda w: w.eval(None, "--head", "train"), "Did you mean 'trained'?"),
    "split unknown": (lambda w: w.eval(None, "--split", "tset"), "Did you mean 'test'?"),
    "domain where there is none": (lambda w: w.eval(None, "--domain", "sketch"), "no domains"),
    "eval template without place": (lambda w: w.eval(None, "--template", "x"), "'{}'"),
}  # fmt: skip
DATA: dict[str, tuple[Callable[[World], list], str]] = {
    "data missing": (lambda w: w.fit("--data", w.tmp / "nowhere"), "nowhere"),
    "data empty string": (lambda w: w.fit("--data", ""), "No data set"),
    "data with NUL": (lambda w: w.fit("--data", "a\0b"), "There is no data set"),
    "data kind unknown": (lambda w: w.fit("--data", "embeded:food"), "Did you mean 'embedded'?"),
    "embedded set unknown": (lambda w: w.fit("--data", "embedded:fodo"), "'fodo'"),
    "embedded set without name": (lambda w: w.fit("--data", "embedded:"), "embedded:food"),
    "coop without root": (lambda w: w.fit("--data", "coop:oxford_pets"), "root"),
    "coop name unknown": (lambda w: w.fit("--data", "coop:pets", "--root", w.tmp), "'pets'"),
    "coop folder missing": (lambda w: w.fit("--data", "coop:dtd", "--root", w.tmp), "missing"),
    "coop split corrupt": (
        lambda w: w.fit("--data", "coop:dtd", "--root",
                        w.file("dtd/split_zhou_DescribableTextures.json", "{").parents[1]), "not valid JSON"),
    "coop split of another form": (
        lambda w: w.fit("--data", "coop:dtd", "--root",
                        w.file("dtd/split_zhou_DescribableTextures.json", "[1]").parents[1]), "not a split file"),
    "folder empty": (lambda w: w.fit("--data", w.folder()), "class folders"),
    "folder without pictures": (lambda w: w.fit("--data", w.folder("a", "b", pictures=0)), "picture"),
    "folder of one class": (lambda w: w.fit("--data", w.folder("only")), "two"),
    "half of two classes": (lambda w: w.fit("--data", w.folder("a", "b"), "--subset", "base"), "two classes"),
    "picture instead of a folder": (lambda w: w.fit("--data", w.picture), "no table"),
    "classes equal after cleaning": (lambda w: w.fit("--data", w.folder("a_b", "a b")), "both read as"),
    "class with control characters": (lambda w: w.fit("--data", w.folder("a\x1b[31mb", "c")), "control"),
    "class longer than the context": (lambda w: w.fit("--data", w.folder(LONG, "b")), "tokens"),
    "table empty": (lambda w: w.fit("--data", w.file("t.csv")), "t.csv"),
    "table without column": (lambda w: w.fit("--data", w.file("t.csv", "path,name\na.png,x\n")), "label"),
    "table with header only": (lambda w: w.fit("--data", w.file("t.csv", "path,label\n")), "t.csv"),
    "table with missing files": (lambda w: w.fit("--data", w.file("t.csv", "path,label\na.png,x\nb.png,y\n")), "a.png"),
    "table of bytes": (lambda w: w.fit("--data", w.file("t.csv", b"\x89\xff\0\1\2")), "t.csv"),
    "descriptions missing": (lambda w: w.fit("--descriptions", w.tmp / "d.json"), "does not exist"),
    "descriptions no JSON": (lambda w: w.fit("--descriptions", w.file("d.json", "{'a'")), "JSON"),
    "descriptions a list": (lambda w: w.fit("--descriptions", w.file("d.json", "[1]")), "{class: [sentences]}"),
    "descriptions not sentences": (lambda w: w.fit("--descriptions", w.file("d.json", '{"a": "b"}')), "'a'"),
    "descriptions empty list": (lambda w: w.fit("--descriptions", w.file("d.json", '{"a": []}')), "'a'"),
    "descriptions lack a class": (
        lambda w: w.fit("--set", "noisy=descriptions", "--descriptions",
                        w.file("d.json", '{"red square": ["A red one."]}')), "'blue_square'"),
    "descriptions needed": (lambda w: w.fit("--method", "anprompt-snapshot"), "--descriptions"),
    "out is a file": (lambda w: w.fit("--out", w.file("taken", "x")), "in the way"),
    "out below a file": (lambda w: w.fit("--out", w.file("taken", "x") / "deep"), "in the way"),
    "out with NUL": (lambda w: w.fit("--out", "a\0b"), "can't be a folder"),
    "out with a name too long": (lambda w: w.fit("--out", w.tmp / ("x" * 300)), "can't be a folder"),
    "out holds other files": (lambda w: w.fit("--out", w.file("mine/letter.txt", "x").parent), "letter.txt"),
    "out holds another adapter": (lambda w: w.fit("--out", w.adapter()), "another run"),
}  # fmt: skip
MODELS: dict[str, tuple[Callable[[World], list], str]] = {
    "backbone unknown": (lambda w: w.fit("--backbone", "no-one/no-such-clip"), "no-such-clip"),
    "backbone empty string": (lambda w: w.fit("--backbone", ""), "empty"),
    "backbone folder empty": (lambda w: w.fit("--backbone", w.folder()), "config.json"),
    "backbone of another kind": (lambda w: w.fit("--backbone", w.model(edit("config.json", model_type="bert"))), "bert"),
    "backbone weights cut off": (
        lambda w: w.fit("--backbone", w.model(lambda m: cut(m / "model.safetensors"))), "Can't read backbone"),
    "backbone config no JSON": (
        lambda w: w.fit("--backbone", w.model(lambda m: cut(m / "config.json"))), "Can't read backbone"),
    "adapter missing": (lambda w: w.eval(w.tmp / "nowhere"), "does not exist"),
    "adapter a file": (lambda w: w.eval(w.picture), "is a file"),
    "adapter folder without config": (lambda w: w.eval(w.photos), "not an adapter"),
    "adapter without tensors": (lambda w: w.eval(w.adapter(remove="adapter.safetensors")), "incomplete"),
    "adapter config no JSON": (lambda w: w.eval(cut(w.adapter() / "config.json").parent), "JSON"),
    "adapter config a list": (
        lambda w: w.eval((w.adapter(), w.file("adapter/config.json", "[]"))[0]), "not the config"),
    "adapter of another format": (lambda w: w.eval(w.adapter(put(format=99))), "format 99"),
    "adapter config without settings": (lambda w: w.eval(w.adapter(lambda c: c.pop("settings"))), "'settings'"),
    "adapter class list empty": (lambda w: w.eval(w.adapter(put(classnames=[]))), "classnames"),
    "adapter class list of numbers": (lambda w: w.eval(w.adapter(put(classnames=[1, 2]))), "classnames"),
    "adapter method unknown": (lambda w: w.eval(w.adapter(put(method="x", preset="x"))), "'x'"),
    "adapter setting unknown": (lambda w: w.eval(w.adapter(lambda c: c["settings"].update(rnk=1))), "'rank'"),
    "adapter setting huge": (
        lambda w: w.eval(w.adapter(lambda c: c["settings"].update(token_width=10**12))), "token_width"),
    "adapter template broken": (lambda w: w.eval(w.adapter(put(template="no place"))), "'{}'"),
    "adapter backbone by relative path": (
        lambda w: w.eval(w.adapter(lambda c: c["backbone"].update(id="../../etc"))), "../../etc"),
    "adapter backbone folder gone": (
        lambda w: w.eval(w.adapter(lambda c: c["backbone"].update(id="/gone/clip"))), "--backbone"),
    "adapter tensor missing": (lambda w: w.eval(w.adapter(tensors=lambda t: t.pop("tokens"))), "'tokens'"),
    "adapter tensor surplus": (lambda w: w.eval(w.adapter(tensors=put(evil=torch.zeros(2)))), "'evil'"),
    "adapter tensor of another shape": (
        lambda w: w.eval(w.adapter(tensors=put(tokens=torch.zeros(3, 16)))), "shape [3, 16]"),
    "adapter tensor huge": (
        lambda w: w.eval(w.adapter(tensors=put(tokens=torch.zeros(5000, 1600)))), "shape [5000, 1600]"),
    "adapter tensor of NaN": (
        lambda w: w.eval(w.adapter(tensors=put(tokens=torch.full((5, 16), float("nan"))))), "NaN"),
    "adapter tensor of integers": (
        lambda w: w.eval(w.adapter(tensors=put(tokens=torch.zeros(5, 16, dtype=torch.int32)))), "int32"),
    "adapter tensors cut off": (lambda w: w.eval(cut(w.adapter() / "adapter.safetensors").parent), "damaged"),
    "adapter tensors a pickle": (
        lambda w: w.eval((w.adapter(), w.file("adapter/adapter.safetensors", b"\x80\x04."))[0]), "damaged"),
    "adapter of other weights": (
        lambda w: w.eval(w.adapter(lambda c: c["backbone"].update(weight_hash="0" * 64))), "other weights"),
    "adapter of another activation": (
        lambda w: w.eval(w.adapter(lambda c: c["backbone"].update(activation="gelu"))), "'gelu'"),
    "zeroshot backbone unknown": (lambda w: w.eval("zeroshot", "--backbone", "no-one/none"), "no-one/none"),
}  # fmt: skip
PICTURES: dict[str, tuple[Callable[[World], list], str]] = {
    "picture missing": (lambda w: w.predict(w.tmp / "no.png"), "no.png"),
    "picture empty": (lambda w: w.predict(w.file("e.png")), "empty"),
    "picture corrupt": (lambda w: w.predict(w.file("c.png", w.picture.read_bytes()[:200])), "c.png"),
    "picture a text": (lambda w: w.predict(w.file("t.jpg", "hello")), "not a picture"),
    "picture name with control characters": (lambda w: w.predict(w.file("a\n\x1b[31mb.png")), "empty"),
    "pictures all missing": (lambda w: w.predict("no1.png", "no2.png"), "None of the 2"),
    "picture folder empty": (lambda w: w.predict(w.folder()), "no pictures"),
    "no picture given": (lambda w: w.predict("--top", "2"), "PICTURE"),
    "class list empty": (lambda w: w.predict(w.picture, "--classes", " , "), "empty"),
    "class list of one": (lambda w: w.predict(w.picture, "--classes", "cat"), "two names"),
    "class list with a gap": (lambda w: w.predict(w.picture, "--classes", "cat,,dog"), "is empty"),
    "class list with equal names": (lambda w: w.predict(w.picture, "--classes", "a b,A_B"), "both read as"),
    "class list with control characters": (lambda w: w.predict(w.picture, "--classes", "a\x07b,c"), "control"),
    "class list with a long name": (lambda w: w.predict(w.picture, "--classes", f"{LONG},c"), "tokens"),
    "class file missing": (lambda w: w.predict(w.picture, "--classes", "@no.txt"), "no.txt"),
    "class file of bytes": (
        lambda w: w.predict(w.picture, "--classes", f"@{w.file('c.txt', bytes([255, 254, 0]))}"), "UTF-8"),
    "class file empty": (lambda w: w.predict(w.picture, "--classes", f"@{w.file('c.txt')}"), "empty"),
    "top 0": (lambda w: w.predict(w.picture, "--top", "0"), "--top"),
    "zeroshot without classes": (lambda w: ["predict", "zeroshot", str(w.picture)], "--classes"),
    "predict precision unknown": (lambda w: w.predict(w.picture, "--dtype", "int8"), "'int8'"),
}  # fmt: skip
CASES = {**WORDS, **VALUES, **DATA, **MODELS, **PICTURES}


@pytest.mark.parametrize("case", CASES)
def test_one_clear_line_and_exit_code_2(
    case: str, world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(world.tmp)  # "embedded:", "no1.png" and the default --out must not meet real files
    build, expected = CASES[case]
    argv = build(world)
    capsys.readouterr()
    code = main(argv)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert code == 2, lines
    assert len(lines) == 1 and lines[0].startswith("anprompt: error: "), lines
    assert expected in lines[0]
    assert "Traceback" not in lines[0] and lines[0].isprintable()


def test_there_are_many_cases() -> None:
    assert len(CASES) == len(WORDS) + len(VALUES) + len(DATA) + len(MODELS) + len(PICTURES) >= 100


@pytest.mark.skipif(torch.cuda.is_available(), reason="has CUDA")
def test_cuda_where_there_is_none(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(world.fit("--device", "cuda")) == 2
    assert "Available: cpu" in capsys.readouterr().err


def test_nothing_is_left_behind(world: World) -> None:
    """A request that is refused before training leaves no adapter and no state."""
    assert main(world.fit("--data", world.tmp / "nowhere")) == 2
    assert main(world.fit("--set", "first_block=99")) == 2
    assert not (world.tmp / "out").exists() or not list((world.tmp / "out").glob("**/*.safetensors"))
