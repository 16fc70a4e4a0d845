from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import live_adapters
import live_parts
import live_speed
import pytest

from hyperfit_course.artifacts import sha256_file

ROOT = Path(__file__).resolve().parent.parent
MODEL = bytes(range(256)) * 100


def packed() -> bytes:
    """An archive with the files that are taken from wllama's."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as package:
        for member in live_parts.WLLAMA_FILES:
            entry = tarfile.TarInfo(member)
            entry.size = len(member)
            package.addfile(entry, io.BytesIO(member.encode()))
    return archive.getvalue()


@pytest.fixture
def html(tmp_path: Path) -> Path:
    """A built book as far as the live page needs it."""
    folder = tmp_path / "html" / "_static" / "live" / "adapters"
    folder.mkdir(parents=True)
    (folder / "all.safetensors").write_bytes(b"adapters")
    (folder.parent / "page.js").write_text("// the page", encoding="utf-8")
    return tmp_path / "html"


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(MODEL)
    monkeypatch.setattr(live_parts, "fetch", lambda name: path)
    monkeypatch.setattr(live_parts, "PIECE", 10_000)
    return path


class Npm:
    """Stands in for npm: puts an archive where npm would, and counts the calls."""

    def __init__(self, content: bytes) -> None:
        self.content, self.calls = content, 0

    def __call__(self, command: list[str], **_: object) -> subprocess.CompletedProcess:
        self.calls += 1
        assert live_parts.WLLAMA in command
        folder = Path(command[command.index("--pack-destination") + 1])
        (folder / "wllama-wllama-2.4.0.tgz").write_bytes(self.content)
        return subprocess.CompletedProcess(command, 0)


@pytest.fixture
def npm(monkeypatch: pytest.MonkeyPatch) -> Npm:
    stand_in = Npm(packed())
    digest = base64.b64encode(hashlib.sha512(stand_in.content).digest()).decode()
    monkeypatch.setattr(live_parts, "WLLAMA_SHA512", digest)
    monkeypatch.setattr(live_parts.subprocess, "run", stand_in)
    return stand_in


def main(html: Path) -> int:
    return live_parts.main(["--html", str(html)])


def test_parts_lie_beside_the_pages_with_their_hashes(html: Path, model: Path, npm: Npm) -> None:
    assert main(html) == 0
    live = html / "_static" / "live"
    listed = json.loads((live / "parts.json").read_text("utf8"))
    pieces = listed["model"]
    assert [piece["size"] for piece in pieces] == [10_000, 10_000, 5_600]
    assert b"".join((live / piece["file"]).read_bytes() for piece in pieces) == MODEL
    for each in [*pieces, listed["wasm"], listed["wasm_threads"], listed["script"], listed["adapters"]["all"]]:
        assert each["sha256"] == hashlib.sha256((live / each["file"]).read_bytes()).hexdigest()
    assert listed["wasm"]["sha256"] != listed["wasm_threads"]["sha256"]
    assert "page.js" in listed["files"]
    assert all((live / name).is_file() for name in listed["files"] if name != "prompts.json")


def test_the_second_build_fetches_nothing_and_writes_no_piece_again(html: Path, model: Path, npm: Npm) -> None:
    assert main(html) == 0
    piece = html / "_static" / "live" / "parts" / "model-0.bin"
    written = piece.stat().st_mtime_ns
    assert main(html) == 0
    assert npm.calls == 1
    assert piece.stat().st_mtime_ns == written
    piece.write_bytes(b"damaged")
    assert main(html) == 0
    assert piece.read_bytes() == MODEL[:10_000]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (subprocess.CalledProcessError(1, "npm", stderr="npm error network no route to host\n"), "no route to host"),
        (FileNotFoundError("no npm"), "no npm"),
    ],
    ids=["network", "no npm"],
)
def test_without_npm_the_book_stays_and_one_sentence_says_what_is_missing(
    html: Path,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    error: Exception,
    reason: str,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(live_parts.subprocess, "run", fail)
    (html / "_static" / "live" / "parts.json").write_text("{}", encoding="utf-8")
    assert main(html) == 0
    said = capsys.readouterr().err
    assert said.startswith("The book is built without its live part. Could not download @wllama/wllama@2.4.0")
    assert reason in said
    assert not (html / "_static" / "live" / "parts.json").exists(), "the page would ask for parts that are old"


def test_another_archive_is_refused(
    html: Path, model: Path, npm: Npm, cache: Path, capsys: pytest.CaptureFixture
) -> None:
    npm.content += b"more"
    assert main(html) == 0
    assert "its SHA-512 differs" in capsys.readouterr().err
    assert not list(cache.rglob("*.tgz"))


def test_without_a_book_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(tmp_path) == 1
    assert "run `make html` first" in capsys.readouterr().err


def test_growing_texts_are_over_within_five_seconds_and_one_of_them_repeats() -> None:
    page = (ROOT / "book" / "_static" / "growing.html").read_text("utf8")
    numbers = [int(number) for number in re.findall(r'style="--i:(\d+)"', page)]
    milliseconds = re.search(r"var\(--i\) \* (\d+)ms", (ROOT / "book" / "_static" / "custom.css").read_text("utf8"))
    assert milliseconds
    assert max(numbers) * int(milliseconds[1]) < 5000, "longer motion would need a button that stops it"
    base, tuned = page.split('class="hf-strip"')[1:]
    assert base.count("<u ") > 2 * tuned.count("<u ")


def test_what_the_page_writes_is_recorded_for_its_adapters_and_is_that_of_the_course() -> None:
    rows = json.loads((ROOT / "results" / "live.json").read_text("utf8"))["rows"]
    texts = [row for row in rows if "arm" in row]
    page, course = ({row["arm"]: row for row in texts if (row["engine"] == "torch") == of} for of in (False, True))
    files = {arm.label: f"{name}.safetensors" for name, arm in live_adapters.ARMS.items()}
    assert page.keys() == course.keys() == {"base", *files}
    for arm, row in page.items():
        for each in (row, course[arm]):
            adapters = sha256_file(live_adapters.FOLDER / files[arm]) if arm in files else None
            assert each["configuration"]["adapters"] == adapters
            assert each["n_prompts"] == 30
        assert row["engine"] == live_parts.WLLAMA
        assert row["same_prompt_tokens"] == 30
        for measure in ("ttr", "bigram_repetition"):
            assert abs(row[measure] - course[arm][measure]) < 0.05, f"{arm}, {measure}"


def test_speed_is_recorded_beside_that_of_torch_in_one_run() -> None:
    rows = json.loads((ROOT / "results" / "live.json").read_text("utf8"))["rows"]
    ways = {row["way"]: row for row in rows if "way" in row}
    assert {"page", "page, base model alone", "torch"} <= ways.keys()
    assert len({json.dumps(row["configuration"]) for row in ways.values()}) == 1
    assert ways["torch"]["over_torch"] == 1
    for row in ways.values():
        assert len(row["rates"]) == live_speed.ROUNDS
        assert 0 < row["over_torch"] < 20
        assert row["seconds_to_first_token"] > 0


def test_ways_take_turns_and_the_first_round_does_not_count() -> None:
    asked: list[str] = []

    def way(name: str, rate: float) -> Callable[[list[int]], live_speed.Speed]:
        def measure(prompt: list[int]) -> live_speed.Speed:
            asked.append(name)
            return {"first": prompt[0], "rate": rate * (1 + prompt[0]) if prompt[0] else 1e9}

        return measure

    ways = {"page": way("page", 3), "torch": way("torch", 2)}
    page, torch = live_speed.speed_rows(ways, [[0], [1], [2], [6]])
    assert asked == ["page", "torch", "torch", "page"] * 2
    assert page["seconds_to_first_token"] == 2
    assert page["tokens_per_second"] == 9
    assert (page["over_torch"], torch["over_torch"]) == (1.5, 1)
    assert page["rates"] == [6, 9, 21]


def test_the_page_offers_twelve_prompts() -> None:
    prompts = json.loads((ROOT / "book" / "_static" / "live" / "prompts.json").read_text("utf8"))
    assert len(set(prompts)) == 12
    assert all(len(prompt) > 60 for prompt in prompts)
