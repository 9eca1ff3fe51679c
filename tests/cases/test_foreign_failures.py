"""What fails outside of this library is one line: devices, tokenizers, folders called like models."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import anprompt as ap
from anprompt.adapters.adapter import CONFIG, load_adapter
from anprompt.adapters.official_checkpoints import read_field_checkpoint, read_state
from anprompt.adapters.official_files import class_count
from anprompt.backbones import devices, load_backbone, resolve_device
from anprompt.backbones import tokenizers as tokenizer_checks
from anprompt.backbones.names import is_path
from anprompt.commands.main import main
from anprompt.data.embedded import embedded_model_folder
from anprompt.errors import UserError
from anprompt.utils.files import first_line


def line_of(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of a command that is refused with exit code 2."""
    capsys.readouterr()
    assert main(words) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and "Traceback" not in lines[0], lines
    return lines[0]


# --- devices --------------------------------------------------------------------------------------
ABSENT = ["mps", "xpu", "meta", "cuda:7", "cuda:99999", "gpu", "GPU", "hpu", "vulkan", "cpu:3", "mps:1", "meta:0"]
UNKNOWN = ["", "cud", "cuda:-1", "cuda:x", "cpu,cuda", "tpu", "0", "\x1b[31m"]


@pytest.fixture
def only_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_count", lambda kind: 0)


@pytest.mark.parametrize("word", [*ABSENT, *UNKNOWN])
def test_a_device_that_is_not_here_names_those_that_are(word: str, only_a_cpu: None) -> None:
    with pytest.raises(UserError, match=r"Available: (auto, )?cpu") as caught:
        resolve_device(word)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("word", ["mps", "xpu", "meta", "cuda:7"])
def test_commands_refuse_it_with_exit_code_2(
    word: str, only_a_cpu: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["fit", "--data", "embedded:sky", "--shots", "1", "--out", str(tmp_path / "out"), "--device", word]
    assert f"Device '{word}' is not on this machine" in line_of(words, capsys)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("word", "found"), [("cuda", "cuda"), ("CUDA:1", "cuda:1"), ("mps", "mps"), ("cpu", "cpu")])
def test_devices_that_are_here(word: str, found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_count", {"cuda": 2, "mps": 1, "xpu": 0}.__getitem__)
    assert devices.devices() == ["cpu", "cuda:0", "cuda:1", "mps"]
    assert str(resolve_device(word)) == found
    with pytest.raises(UserError, match="cuda:0, cuda:1"):
        resolve_device("cuda:2")


@pytest.mark.parametrize(("cuda", "mps", "works", "found"), [(1, 1, True, "cuda"), (0, 1, True, "mps"),
                                                             (0, 1, False, "cpu"), (0, 0, True, "cpu")])  # fmt: skip
def test_auto_takes_what_works(cuda: int, mps: int, works: bool, found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_count", {"cuda": cuda, "mps": mps, "xpu": 0}.__getitem__)
    monkeypatch.setattr(devices, "_works", lambda device: works)
    assert str(resolve_device("auto")) == found


def test_a_gpu_that_answers_nothing_does_not_work() -> None:
    assert devices._works(torch.device("cpu"))
    if not devices._count("mps"):
        assert not devices._works(torch.device("mps"))


# --- tokenizers -----------------------------------------------------------------------------------
TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A copy of the embedded model, to spoil."""
    return Path(shutil.copytree(embedded_model_folder(), tmp_path / "clip"))


def no_files(folder: Path) -> None:
    for name in TOKENIZER_FILES:
        (folder / name).unlink(missing_ok=True)


def other_vocabulary(folder: Path) -> None:
    """A sound tokenizer of a larger model."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["[UNK]", "[END]", "cat", "dog", "sun", "red", "big", "house", "river", "7"]
    vocabulary = {word: index for index, word in enumerate([*words, *(f"w{i}" for i in range(60_000))])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(single="$A [END]", special_tokens=[("[END]", 1)])
    no_files(folder)
    PreTrainedTokenizerFast(tokenizer_object=made, eos_token="[END]", unk_token="[UNK]").save_pretrained(folder)


def no_end(folder: Path) -> None:
    """A tokenizer that knows words and closes no sentence."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.WordLevel({"[UNK]": 0, "cat": 1, "dog": 2, "sun": 3}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    no_files(folder)
    PreTrainedTokenizerFast(tokenizer_object=made, unk_token="[UNK]").save_pretrained(folder)


def empty_vocabulary(folder: Path) -> None:
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"]["vocab"] = {k: v for k, v in content["model"]["vocab"].items() if k.startswith("<|")}
    content["model"]["merges"] = []
    no_files(folder)
    (folder / "tokenizer.json").write_text(json.dumps(content))


SPOIL: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no files": (no_files, "no tokenizer files"),
    "of a larger model": (other_vocabulary, "belongs to another model"),
    "without an end": (no_end, "no end token"),
}


@pytest.mark.parametrize("case", SPOIL)
def test_a_tokenizer_that_is_not_the_models_is_refused(
    case: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil, said = SPOIL[case]
    spoil(model)
    with pytest.raises(UserError, match=said):
        load_backbone(model)
    Image.new("RGB", (20, 20)).save(tmp_path / "x.png")
    words = ["predict", "zeroshot", str(tmp_path / "x.png"), "--classes", "apple,plum", "--backbone", str(model)]
    assert said in line_of(words, capsys)


def test_an_empty_vocabulary_is_refused(model: Path) -> None:
    if not (model / "tokenizer.json").is_file():
        pytest.skip("this model's vocabulary lies in other files")
    empty_vocabulary(model)
    with pytest.raises(UserError, match="tokenizer"):
        load_backbone(model)


def test_a_token_beyond_the_embedding_is_named() -> None:
    tokenizer_checks.check_ids("m", "a cat", [1, 9], 10)
    with pytest.raises(UserError, match="'a cat' a token 10, but the model knows 10"):
        tokenizer_checks.check_ids("m", "a cat", [1, 10], 10)


# --- names that resolve elsewhere -----------------------------------------------------------------
@pytest.mark.parametrize("spec", ["/a/b", "./a", "../a", "~", "~/a", ".", ".."])
def test_paths_look_like_paths(spec: str) -> None:
    assert is_path(spec)


@pytest.mark.parametrize("name", ["evil/model", "model", "org-1/clip_b.16", "models/clip.v2"])
def test_a_hub_id_is_never_a_folder_beside(
    name: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here" / name).parent.mkdir(parents=True)
    model.rename(tmp_path / "here" / name)
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(UserError, match=r"Write '\./"):
        load_backbone(name)
    assert load_backbone(f"./{name}").weight_hash == load_backbone(Path(name)).weight_hash
    monkeypatch.setenv("HOME", str(tmp_path / "here"))
    assert load_backbone(f"~/{name}").weight_hash == load_backbone("embedded").weight_hash


@pytest.mark.parametrize("where", ["beside", "inside"])
def test_an_adapter_never_brings_its_backbone(
    where: str, model: Path, adapter_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = Path(shutil.copytree(adapter_folder, tmp_path / "adapter"))
    home = tmp_path if where == "beside" else adapter
    (home / "evil").mkdir()
    model.rename(home / "evil" / "model")
    config = json.loads((adapter / CONFIG).read_text())
    config["backbone"] |= {"id": "evil/model", "weight_hash": load_backbone("embedded").weight_hash}
    (adapter / CONFIG).write_text(json.dumps(config))
    monkeypatch.chdir(home)
    with pytest.raises(UserError, match="evil/model"):
        load_adapter(adapter)


def test_a_full_path_into_the_adapter_is_refused(model: Path, adapter_folder: Path, tmp_path: Path) -> None:
    adapter = Path(shutil.copytree(adapter_folder, tmp_path / "adapter"))
    model.rename(adapter / "files")
    (tmp_path / "elsewhere").symlink_to(adapter / "files")
    for name in (adapter / "files", tmp_path / "elsewhere"):
        config = json.loads((adapter / CONFIG).read_text())
        config["backbone"]["id"] = str(name)
        (adapter / CONFIG).write_text(json.dumps(config))
        with pytest.raises(UserError, match="in the adapter's own folder"):
            load_adapter(adapter)


def test_a_missing_folder_says_so() -> None:
    with pytest.raises(UserError, match=r"'\./no-such-folder' does not exist"):
        load_backbone("./no-such-folder")


# --- advice of libraries --------------------------------------------------------------------------
@pytest.mark.parametrize(
    "said",
    [
        "The repository contains custom code. Please pass the argument `trust_remote_code=True` to allow it.",
        "Weights only load failed. Re-running `torch.load` with `weights_only` set to `False` will likely succeed.",
        "Object arrays cannot be loaded when allow_pickle=False",
        "Please use torch.serialization.add_safe_globals([evil.Evil]) to allowlist.\nIt can result in arbitrary code.",
        "Set trust_remote_code=True",
    ],
)
def test_no_message_advises_unsafe_loading(said: str) -> None:
    line = first_line(RuntimeError(said))
    assert line and not any(
        word in line for word in ("trust_remote_code", "weights_only", "allow_pickle", "safe_globals")
    )


def test_code_beside_a_model_gets_no_such_advice(model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(
        json.dumps({**config, "model_type": "anything", "auto_map": {"AutoConfig": "evil.Evil"}})
    )
    (model / "evil.py").write_text("class Evil: pass\n")
    with pytest.raises(UserError) as caught:
        load_backbone(model)
    assert "trust_remote_code" not in str(caught.value) and "config.json" in str(caught.value)


# --- what is no image -----------------------------------------------------------------------------
class NAType:
    """Like pandas' NA: neither equal nor unequal to anything."""

    def __repr__(self) -> str:  # names of tests are the same in every process
        return "<NA>"

    def __bool__(self) -> bool:
        raise TypeError("boolean value of NA is ambiguous")

    def __ne__(self, other: object) -> NAType:  # type: ignore[override]
        return self

    __hash__ = None  # type: ignore[assignment]


NO_IMAGES = [None, float("nan"), np.float64("nan"), np.datetime64("NaT"), NAType(), "", "  ", b"", 3, 2.5, np.int64(3), True,
             {}, {"path": "a.png"}, [], ["a.png"], ("a.png",)]  # fmt: skip


@pytest.fixture(scope="module")
def photos(photo_folder: Path) -> list[str]:
    return [str(photo_folder / name / f"{i}.png") for name in ("red_square", "green square") for i in range(2)]


@pytest.mark.parametrize("value", NO_IMAGES, ids=repr)
def test_a_row_without_an_image_is_named(value: Any, photos: list[str], tiny_backbone: Any) -> None:
    classifier = ap.PromptClassifier(tiny_backbone, method="coop", shots=2, train={"epochs": 1})
    classifier.fit(photos, ["a", "a", "b", "b"])
    column = np.empty(5, dtype=object)
    column[:] = [*photos[:2], None, *photos[2:]]
    column[2] = value
    for X in (column, column.reshape(5, 1), column.tolist(), iter(column.tolist())):
        with pytest.raises(UserError, match="Row 2 holds no image"):
            classifier.predict(X)
    with pytest.raises(UserError, match="Row 2 holds no image"):
        classifier.fit(column, ["a", "a", "a", "b", "b"])


@pytest.mark.parametrize("X", [None, np.array(None, dtype=object), 3, np.full((2, 2), None, dtype=object), {"a": 1}])
def test_what_holds_no_images_at_all(X: Any, photos: list[str], tiny_backbone: Any) -> None:
    classifier = ap.PromptClassifier(tiny_backbone, method="coop", shots=2, train={"epochs": 1})
    classifier.fit(photos, ["a", "a", "b", "b"])
    for call in (lambda: classifier.predict(X), lambda: classifier.fit(X, ["a", "b"])):
        with pytest.raises(UserError) as caught:
            call()
        assert "\n" not in str(caught.value)


# --- official files -------------------------------------------------------------------------------
ROWS = {
    "coop": {"token_prefix": (3, 1, 128), "token_suffix": (3, 27, 128)},
    "class-specific coop": {"ctx": (3, 4, 128)},
    "a whole model": {"module.prompt_learner.token_prefix": (3, 1, 128)},
    "sentences as numbers": {"tokenized_prompts": (3, 77)},
}


@pytest.mark.parametrize("case", ROWS)
def test_another_number_of_classes_is_refused(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shapes = ROWS[case]
    prefix = "module.prompt_learner." if any("." in key for key in shapes) else ""
    state = {f"{prefix}ctx": torch.zeros(4, 128), **{key: torch.zeros(shape) for key, shape in shapes.items()}}
    file = tmp_path / "model.pth.tar-5"
    torch.save({"state_dict": state, "epoch": 5}, file)
    words = ["convert", str(file), "--backbone", "no-such/model", "--out", str(tmp_path / "out"), "--classes"]
    for names in ("a,b", "a,b,c,d"):
        line = line_of([*words, names], capsys)  # before the backbone is looked for
        assert f"was trained on 3 classes, but {len(names.split(','))} names are given" in line
    words[words.index("no-such/model")] = "embedded"
    assert main([*words, "a,b,c"]) == 0


@pytest.mark.parametrize("method", ["coop", "cocoop", "maple", "promptsrc", "mmrl", "mmrlpp"])
def test_every_methods_file_tells_its_classes(method: str, tiny_backbone: Any, tmp_path: Path) -> None:
    from tests.adapters.test_checkpoints_field import NAMES, official_state, randomised, save

    path = save(tmp_path, official_state(method, randomised(method, tiny_backbone)))
    read_field_checkpoint(path, tiny_backbone, NAMES)
    for names in (NAMES[:2], [*NAMES, "ox"]):
        with pytest.raises(UserError, match=f"trained on 3 classes, but {len(names)} names"):
            read_field_checkpoint(path, tiny_backbone, names)


def test_counts_that_disagree_are_damage(tmp_path: Path) -> None:
    state = {"prompt_learner.token_prefix": torch.zeros(3, 1, 8), "prompt_learner.token_suffix": torch.zeros(4, 5, 8)}
    with pytest.raises(UserError, match=r"for 3 classes, but .* for 4"):
        class_count(state, "x")
    assert class_count({"prompt_learner.ctx": torch.zeros(4, 8)}, "x") is None


def test_a_folder_or_a_missing_epoch_names_the_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "seed1" / "prompt_learner"
    run.mkdir(parents=True)
    words = ["--backbone", "embedded", "--classes", "a,b", "--out", str(tmp_path / "out")]
    assert "without any 'model.pth.tar-N' file" in line_of(["convert", str(tmp_path), *words], capsys)
    for epoch in (5, 50):
        torch.save({"state_dict": {}, "epoch": epoch}, run / f"model.pth.tar-{epoch}")
    (run / "checkpoint").write_text("model.pth.tar-50")
    both = f"{run / 'model.pth.tar-5'}, {run / 'model.pth.tar-50'}"
    for folder in (tmp_path, tmp_path / "seed1", run):
        assert f"is a folder; give one of its files: {both}" in line_of(["convert", str(folder), *words], capsys)
    line = line_of(["convert", str(run / "model.pth.tar-200"), *words], capsys)
    assert "does not exist" in line and both in line
    assert "does not exist" in line_of(["convert", str(tmp_path / "nowhere" / "x"), *words], capsys)


@pytest.mark.parametrize(
    ("named", "held", "told"), [(5, 50, True), (50, 50, False), (5, None, False), (5, "five", False)]
)
def test_a_name_with_another_epoch_is_told(
    named: int, held: Any, told: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / f"model.pth.tar-{named}"
    torch.save({"state_dict": {"ctx": torch.zeros(4, 8)}, "epoch": held}, file)
    read_state(file)
    assert [f"of epoch {named}, but holds epoch {held}" in r.getMessage() for r in caplog.records] == [True] * told
