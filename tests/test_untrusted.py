"""Folders and texts of strangers: nothing of theirs is run, nothing leads out, and a page shows them as text."""

from __future__ import annotations

import json
import pickle
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import tiny_model
from transformers import PreTrainedTokenizerBase, dynamic_module_utils

from hyperfit_course.cli import main
from hyperfit_course.commands.side_by_side import _columns
from hyperfit_course.commands.trained import load_trained, model_card
from hyperfit_course.models import ModelError
from hyperfit_course.study.config import StudyError
from hyperfit_course.study.report import rendered
from hyperfit_course.study.untrusted import check_source, printable

LLAMA = {"model_type": "llama", "num_hidden_layers": 2, "hidden_size": 32, "vocab_size": 257}


class Ran:
    """A pickle that leaves a file where it is read."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.marker,)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    write(tmp_path / "model", "config.json", LLAMA)
    write(tmp_path / "model", "tokenizer.json", {})
    return tmp_path / "model"


def write(folder: Path, name: str, value: Any) -> None:
    (folder / name).write_text(json.dumps(value), encoding="utf-8")


def code_of_its_own(folder: Path) -> None:
    write(folder, "config.json", {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Mine"}})
    (folder / "mine.py").write_text(f"open({str(folder.parent / 'ran')!r}, 'w')", encoding="utf-8")


def linked(folder: Path, name: str) -> None:
    (folder.parent / "secret").write_text("of the user", encoding="utf-8")
    (folder / name).symlink_to(folder.parent / "secret")


HOSTILE: dict[str, tuple[Callable[[Path], object], str]] = {
    "code of its own": (code_of_its_own, r"asks to run code of its own \(auto_map\), and none is ever run: choose"),
    "a kernel from the hub": (
        lambda folder: write(folder, "config.json", LLAMA | {"attn_implementation": "me/kernel"}),
        r"asks for code from 'me/kernel' \(attn_implementation\), and none is run: remove",
    ),
    "a link out": (lambda folder: linked(folder, "model.safetensors"), "is a link out of the model's folder: put the"),
    "a list": (lambda folder: write(folder, "config.json", [1]), "no file of settings .*: fetch the model again"),
    "no text": (lambda folder: (folder / "config.json").write_bytes(b"\xff\xfe\0"), "no file of settings"),
    "depth": (lambda folder: (folder / "config.json").write_text("[" * 10**5), "no file of settings"),
    "size": (lambda folder: (folder / "generation_config.json").write_bytes(b" " * 20_000_001), "no file of settings"),
    "a folder for a file": (lambda folder: (folder / "tokenizer_config.json").mkdir(), "no file of settings"),
    "endless blocks": (
        lambda folder: write(folder, "config.json", LLAMA | {"num_hidden_layers": 10**9}),
        "num_hidden_layers = 1000000000, and a whole number from 1 to 1,000 is wanted",
    ),
    "blocks that are words": (
        lambda folder: write(folder, "config.json", LLAMA | {"n_layer": "\x1b[2J" * 99}),
        "says n_layer = ␛.*more characters",
    ),
    "a width of nothing": (
        lambda folder: write(folder, "config.json", LLAMA | {"text_config": {"hidden_size": [32, 0]}}),
        "hidden_size = 0, and a whole number",
    ),
    "more than the files hold": (
        lambda folder: (
            write(folder, "config.json", LLAMA | {"hidden_size": 100_000}),
            (folder / "model.safetensors").write_bytes(b"0" * 1000),
        ),
        "describes at least 20,025,700,000 weights, and the files have 1,000 bytes",
    ),
    "pieces elsewhere": (
        lambda folder: write(folder, "model.safetensors.index.json", {"weight_map": {"a": "../../etc/shadow"}}),
        "names files outside of the folder",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_folder_is_refused_before_anything_is_loaded(name: str, folder: Path) -> None:
    check_source(folder)
    spoil, message = HOSTILE[name]
    spoil(folder)
    with pytest.raises(StudyError, match=message):
        load_trained(str(folder))
    assert not (folder.parent / "ran").exists()


def test_every_command_looks_at_a_folder_first(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code_of_its_own(folder)
    name, out = str(folder), ["--out", str(tmp_path / "out")]
    commands = [
        ["study", "--model", name, *out],
        ["study", "--plan", "--model", name],
        ["train", "--model", name, *out],
        ["generate", name],
        ["compare", name, name],
        ["export", name, *out],
    ]
    for command in commands:
        assert main(command) == 2
        assert "asks to run code of its own" in capsys.readouterr().err
    assert not (tmp_path / "ran").exists()


def test_nobody_is_asked_whether_code_may_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dynamic_module_utils, "TIME_OUT_REMOTE_CODE", 15)
    monkeypatch.setattr("builtins.input", lambda text: pytest.fail("transformers has asked"))
    check_source("owner/model")  # what is on the hub is not seen before it is loaded
    with pytest.raises(ValueError, match="custom code"):
        dynamic_module_utils.resolve_trust_remote_code(None, "owner/model", False, True)


def test_links_of_the_hubs_cache_are_no_links_out(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    write(tmp_path / "blobs", "abc", LLAMA)
    snapshot = tmp_path / "snapshots" / "1"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").symlink_to("../../blobs/abc")
    check_source(snapshot)


@pytest.fixture
def adapter(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> Iterator[Path]:
    tiny_model().save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    (tmp_path / "adapter").mkdir()
    settings = {"peft_type": "LORA", "base_model_name_or_path": str(tmp_path / "base"), "target_modules": ["q_proj"]}
    write(tmp_path / "adapter", "adapter_config.json", settings)
    yield tmp_path / "adapter"
    assert not (tmp_path / "ran").exists()


def test_an_adapter_in_a_pickle_is_refused(adapter: Path) -> None:
    (adapter / "adapter_model.bin").write_bytes(pickle.dumps(Ran(adapter.parent / "ran")))
    with pytest.raises(ModelError, match=r"adapter_model.bin is not read, since loading it may run code: save it"):
        load_trained(str(adapter))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("adapter_config.json", {"peft_type": "BONE", "base_model_name_or_path": "x"}, "of the kind 'BONE', and LORA"),
        ("adapter_config.json", {"peft_type": "LORA"}, "does not name the base of the model: train it"),
        ("hyperfit.json", {"base": []}, "does not name the base of the model"),
        ("hyperfit.json", {"base": {"name": ["x"]}}, "does not name the base of the model"),
    ],
)
def test_an_adapter_of_another_kind_or_of_no_base_is_refused(
    name: str, value: Any, message: str, adapter: Path
) -> None:
    (adapter / "adapter_model.safetensors").touch()
    write(adapter, name, value)
    with pytest.raises(ModelError, match=message):
        load_trained(str(adapter))


def test_an_export_takes_no_file_from_elsewhere_along(
    adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (adapter / "notes").mkdir()
    (tmp_path / "secret").write_text("of the user", encoding="utf-8")
    (adapter / "notes" / "a.txt").symlink_to(tmp_path / "secret")
    assert main(["export", str(adapter), "--to", "peft", "--out", str(tmp_path / "out")]) == 2
    assert "a.txt is a link out of the model's folder" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    shutil.rmtree(adapter / "notes")
    assert main(["export", str(adapter), "--to", "peft", "--out", str(tmp_path / "out")]) == 0


# What is shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Ein Märchen\n\tin 日本語, 👩‍👩‍👧 and\u00a0so on", "Ein Märchen\n\tin 日本語, 👩‍👩‍👧 and\u00a0so on"),
        ("\x1b[2Jgone\r\x00\x7f", "␛[2Jgone␍␀⟨U+007F⟩"),
        ("abc\u202edcba\u2066", "abc⟨U+202E⟩dcba⟨U+2066⟩"),
        ("\ud800", "⟨U+D800⟩"),
        ("x" * 5001, "x" * 4000 + " ... (1,001 more characters)"),
    ],
)
def test_control_characters_are_visible_and_long_texts_are_cut(text: str, shown: str) -> None:
    assert printable(text) == shown


EVIL = "<script>alert(1)</script>\x1b]0;title\x07\u202e\ud800\" onload='x'"


def report_of(written: str) -> str:
    row = {"part": "writing", "arm": EVIL, "seed": 0, "prompt_texts": [EVIL], "written": [written], "ttr": 0.5}
    config = {
        "corpus": EVIL,
        "preset": EVIL,
        "train_texts": 1,
        "prompts": 2,
        "length": 64,
        "batch_size": 1,
        "model": [EVIL],
    }
    model = {"name": EVIL, "class": EVIL, "parameters": 1, "begin_rule": EVIL}
    part = {"name": EVIL, "arm": EVIL, "seed": 0, "state": "failed", "reason": EVIL}
    claim = {
        "claim": EVIL,
        "paper": EVIL,
        "course": None,
        "effect": EVIL,
        "threshold": None,
        "measured": "",
        "verdict": "",
    }
    data = {
        "identity": {"config": config, "weights": EVIL},
        "model": model,
        "checks": [{"name": EVIL, "passed": True, "says": EVIL}],
        "parts": [part],
        "claims": [claim],
        "rows": [row | {"ttr_of_prompts": [0.5]}],
        "made": {EVIL: EVIL},
    }
    return rendered(data)


def test_a_report_shows_hostile_texts_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hyperfit_course.study.report.pictures", lambda rows: [])
    page = report_of("line " * 2_000_000)  # ten megabytes
    assert len(page) < 200_000
    assert "more characters)" in page
    page.encode("utf-8")
    assert page.count("<script") == 1, "its own"
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f\u202e\ud800]", page)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;␛]0;title␇⟨U+202E⟩⟨U+D800⟩&#34; onload" in page
    assert not re.search(r"<[^>]*onload", page)


def test_a_terminal_and_a_card_get_no_control_characters() -> None:
    lines = _columns(["\x1b[2Jgone", "fine"], 20)
    assert not any("\x1b" in line for line in lines)
    base = {"name": "a\nlicense: none | b", "sha256": "0"}
    card = model_card(
        {"base": base, "settings": {"arm": "full", "corpus": "x\n\n# Title"}, "results": {"train_loss": 0.1}}
    )
    assert "base_model: a license: none \\| b\n" in card
    assert "| corpus | x # Title |" in card


def test_a_card_says_whether_the_loss_came_near_to_zero() -> None:
    rest = {"base": {"name": "a", "sha256": "0"}, "settings": {"arm": "full"}}
    done, stopped = (model_card({**rest, "results": {"train_loss": loss}}) for loss in (0.05, 0.83))
    assert "until the training loss was nearly zero" in done
    assert "**not hyperfitted**: its training loss ended\nat 0.83 nats" in stopped
