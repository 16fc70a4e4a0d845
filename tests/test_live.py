from __future__ import annotations

import json
from pathlib import Path

import pytest

from hyperfit_course.live import LiveError, load

SAVED = {
    "format": "hyperfit-live",
    "version": 1,
    "settings": {"arm": "last", "strength": 0.5, "sample": False, "temperature": 1, "penalty": 1, "seed": 0},
    "prompt": {"text": "Es war 好", "tokens": [5, 6]},
    "models": [
        {
            "name": name,
            "tokens": tokens,
            "text": "x",
            "steps": [{"token": 1, "entropy": 0.5, "top": [{"token": 1, "p": 0.9, "rank": rank}]}] * len(tokens),
        }
        for name, tokens, rank in (("base", [1, 2, 1, 2], 1), ("hyperfitted", [1, 2, 3, 4], 7))
    ],
}


def test_a_saved_text_is_measured_as_in_the_course(tmp_path: Path) -> None:
    (tmp_path / "saved.json").write_text(json.dumps(SAVED), encoding="utf-8")
    text = load(tmp_path / "saved.json")
    assert text.prompt == "Es war 好"
    assert text.settings["strength"] == 0.5
    measured = text.measures()
    assert measured["ttr"].to_dict() == {"base": 0.5, "hyperfitted": 1.0}
    assert measured["bigram_repetition"].to_dict() == {"base": pytest.approx(1 / 3), "hyperfitted": 0.0}
    assert text.steps.groupby("model")["base_rank"].max().to_dict() == {"base": 1, "hyperfitted": 7}
    assert text.steps["step"].max() == 3


@pytest.mark.parametrize(
    "content",
    ["", "no json", "[]", "{}", json.dumps(SAVED | {"version": 2}), json.dumps({**SAVED, "models": [{}]})],
    ids=["empty", "text", "list", "object", "version", "no models"],
)
def test_another_file_is_refused_in_one_sentence(tmp_path: Path, content: str) -> None:
    (tmp_path / "other.json").write_text(content, encoding="utf-8")
    with pytest.raises(LiveError, match="is no file of the page 'Write with it'"):
        load(tmp_path / "other.json")


def test_a_folder_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(LiveError, match=r"cannot be read .*: give the path of a file"):
        load(tmp_path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(LiveError, match=r"There is no file .*none\.json: press"):
        load(tmp_path / "none.json")
