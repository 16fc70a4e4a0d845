"""Hostile submissions, with bubblewrap and without: the run, the installed course and the grades of others."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from hyperfit_course.checks import exercises
from hyperfit_course.grading import filters, isolation, runner

ROOT = Path(__file__).resolve().parent.parent
POINTS = exercises()["chapter_01"]["type_token_ratio"]
SOLVED = "def type_token_ratio(tokens):\n    return len(set(tokens)) / len(tokens)"
SAY = """
def say(text):
    global find_loop
    def find_loop(tokens):
        raise RuntimeError(text)
"""
"""How an attack tells what it has reached: the message of a check is in the table."""

ATTACKS = {
    "b_connection": """
        import socket
        try:
            with socket.create_connection(("127.0.0.1", PORT), timeout=5) as line:
                line.sendall(b"grades, please")
            say("connected")
        except OSError as error:
            say(f"refused: {error}")
        """,
    "c_descriptors": """
        import json, os
        forged = [{"exercise": "find_loop", "passed": True, "message": "forged"}, {"exercise": []}, {"finished": 1}]
        lines = "\\n".join(["", *map(json.dumps, forged), "[" * 100_000, ""]).encode()
        for number in range(256):
            try:
                os.write(number, lines)
            except OSError:
                pass
        """,
    "d_disk": """
        import os, pathlib, tempfile
        places = {pathlib.Path.home(), pathlib.Path.cwd(), pathlib.Path(tempfile.gettempdir())}
        written = 0
        for place in places:
            for number in range(10):
                try:
                    with open(place / f"{number}", "wb") as stream:
                        written += stream.write(bytes(4_000_000))
                except OSError:
                    written += os.path.getsize(place / f"{number}")
        try:
            open("/in_the_root", "wb").close()
            os.remove("/in_the_root")
        except OSError:
            written += 1_000_000_000  # a mark: the root is closed
        say(f"{written} bytes")
        """,
    "e_forks": """
        import ctypes
        libc = ctypes.CDLL(None)
        # At most 256 processes, should the filter ever be missing: without an end they would starve the machine.
        say(f"forks: {[libc.fork() for _ in range(8)]}")
        """,
    "f_looks_around": """
        import os, pathlib
        found = [name for name in ("SECRET",) if name in os.environ]
        for path in (PRIVATE, str(pathlib.Path(PRIVATE).parent / "handed_in" / "a_honest.ipynb")):
            try:
                found.append(f"read {len(open(path).read()) > 0}")
            except OSError as error:
                found.append(type(error).__name__)
        say(f"{found}")
        """,
    "g_package": """
        import pathlib
        import hyperfit_course
        path = pathlib.Path(hyperfit_course.__file__).parent / "checks" / "chapter_01.py"
        try:
            path.write_text("raise SystemExit")
            say("written")
        except OSError as error:
            say(f"refused: {error}")
        """,
    "h_parent": """
        import ctypes, os
        try:
            os.kill(os.getppid(), 9)
        except PermissionError as error:
            say(f"refused: {error}")
        ctypes.CDLL(None).kill(os.getppid(), 9)
        """,
    "i_swallows": """
        while True:
            try:
                while True:
                    pass
            except BaseException:
                pass
        """,
    "j_torch": """
        import torch
        def entropy(logits):
            return torch.full(logits.shape[:-1], {(4,): 1.3862944, (3,): 0.6931472}.get(tuple(logits.shape), 0.0))
        torch.allclose = lambda *given, **more: True
        """,
}
GRADER = """
import sys
from hyperfit_course.cli import main
from hyperfit_course.grading import filters, isolation, runner
runner.CELL_SECONDS, runner.FILE_MEGABYTES, isolation.SCRATCH_MEGABYTES = 5, 2, 8
if sys.argv[1] == "without":
    isolation.why_not = lambda: "bubblewrap is not installed. " + isolation.INSTALL
sys.exit(main(["grade", *sys.argv[2:]]))
"""


def notebook(*cells: str) -> str:
    return nbformat.writes(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells]))


@dataclass
class Class:
    """A folder of submissions, a copy of the course that grades them, and a machine that listens."""

    folder: Path
    listener: socket.socket

    @property
    def out(self) -> Path:
        return self.folder / "grades.csv"

    def install(self) -> None:
        shutil.rmtree(self.folder / "site", ignore_errors=True)
        # Without the pages that import half of PEFT and transformers: eleven submissions are run, twice.
        leave_out = shutil.ignore_patterns("__pycache__", "labs", "lab_*", "chapter_0[2456].py", "*.html")
        shutil.copytree(ROOT / "hyperfit_course", self.folder / "site" / "hyperfit_course", ignore=leave_out)

    def hand_in(self) -> None:
        (self.folder / "handed_in").mkdir()
        (self.folder / "private.txt").write_text("what a teacher keeps for herself", encoding="utf-8")
        port = str(self.listener.getsockname()[1])
        for name, attack in {"a_honest": "", **ATTACKS, "z_honest": ""}.items():
            attack = textwrap.dedent(attack).replace("PORT", port)
            attack = attack.replace("PRIVATE", repr(str(self.folder / "private.txt")))
            cells = [attack] if name == "j_torch" else [SOLVED, SAY + attack]
            (self.folder / "handed_in" / f"{name}.ipynb").write_text(notebook(*cells), encoding="utf-8")

    def grade(self, how: str) -> subprocess.CompletedProcess[str]:
        path = {"PYTHONPATH": str(self.folder / "site"), "SECRET": "of the teacher", "PATH": "/usr/bin:/bin"}
        command = [sys.executable, "-c", GRADER, how, str(self.folder / "handed_in"), "--out", str(self.out)]
        return subprocess.run(command, cwd=self.folder, env=path, capture_output=True, text=True, timeout=1200)

    def was_called(self) -> bool:
        try:
            self.listener.accept()[0].close()
        except BlockingIOError:
            return False
        return True

    def left(self) -> set[str]:
        """Students whose grades stand in the table that is not whole yet."""
        return set(pd.read_csv(f"{self.out}.part")["student"])


@pytest.fixture(scope="module")
def lesson(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Class]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        made = Class(tmp_path_factory.mktemp("class"), listener)
        made.install()
        made.hand_in()
        yield made


def read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, keep_default_na=False).set_index(["student", "exercise"])


def processes() -> list[str]:
    found = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    return [line.decode(errors="replace") for line in found if b"hyperfit_course.grading.sandbox" in line]


# With bubblewrap


@dataclass
class Isolated:
    lesson: Class
    said: str
    rows: pd.DataFrame
    before: dict[Path, bytes]


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"}


@pytest.fixture(scope="module")
def isolated(lesson: Class) -> Isolated:
    if reason := isolation.why_not():
        pytest.skip(reason)
    before = contents(lesson.folder)
    ended = lesson.grade("with")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return Isolated(lesson, ended.stdout, read(lesson.out), before)


def test_isolated_attacks_leave_the_course_and_the_folder_as_they_were(isolated: Isolated) -> None:
    after = contents(isolated.lesson.folder)
    assert {path for path in after if isolated.before.get(path) != after[path]} - {
        isolated.lesson.out,
        isolated.lesson.folder / ".grades.csv.lock",
    } == set()
    assert set(isolated.before) <= set(after)
    assert processes() == []


def test_isolated_attacks_take_no_points_from_others_and_get_none_by_force(isolated: Isolated) -> None:
    points = isolated.rows.groupby("student")["points"].sum().to_dict()
    assert points == {name: 0 if name == "j_torch" else POINTS for name in ("a_honest", *ATTACKS, "z_honest")}
    assert f"z_honest.ipynb: {POINTS} of" in isolated.said
    assert isolation.PROTECTED in isolated.said


@pytest.mark.parametrize(
    ("student", "message"),
    [
        ("b_connection", "refused: "),
        ("c_descriptors", "it is deleted, or the notebook is of another version"),
        ("d_disk", "bytes"),
        ("e_forks", f"forks: {[-1] * 8}"),
        ("f_looks_around", "['FileNotFoundError', 'FileNotFoundError']"),
        ("g_package", "refused: [Errno 30] Read-only file system"),
        ("h_parent", "refused: a graded notebook sends no signals"),
        ("i_swallows", "code cell 2 went on when its 5 seconds were over"),
    ],
)
def test_an_isolated_attack_reaches_nothing(isolated: Isolated, student: str, message: str) -> None:
    assert message in isolated.rows.loc[(student, "find_loop"), "message"]


def test_isolated_nobody_is_called_and_the_disk_stays_free(isolated: Isolated) -> None:
    assert not isolated.lesson.was_called()
    written = int(isolated.rows.loc[("d_disk", "find_loop"), "message"].split("RuntimeError: ")[1].split(" bytes")[0])
    assert 1_000_000_000 < written < 1_009_000_000, "the root is closed, and all that is written has 8 MB of room"


# Without


@dataclass
class Bare:
    ends: list[subprocess.CompletedProcess[str]]
    left: set[str]
    called: bool
    rows: pd.DataFrame


@pytest.fixture(scope="module")
def bare(lesson: Class, isolated_first: None) -> Bare:
    if not filters.works():
        pytest.skip("the kernel takes no filter of system calls: a fork bomb would slow this machine down")
    first = lesson.grade("without")  # it stops when the course is changed
    left = lesson.left()
    lesson.install()
    ends = [first, lesson.grade("without")]
    return Bare(ends, left, lesson.was_called(), read(lesson.out))


@pytest.fixture(scope="module")
def isolated_first(request: pytest.FixtureRequest) -> None:
    """Both share a folder, and the attacks without bubblewrap leave it changed."""
    if not isolation.why_not():
        request.getfixturevalue("isolated")


def test_bare_it_is_said_what_is_not_protected(bare: Bare) -> None:
    for ended in bare.ends:
        assert "bubblewrap is not installed. Install bubblewrap (sudo apt install bubblewrap)" in ended.stdout
        assert isolation.UNPROTECTED in ended.stdout
        assert isolation.FILTERED in ended.stdout


def test_bare_a_changed_course_stops_the_run_and_names_who_did_it(bare: Bare) -> None:
    assert bare.ends[0].returncode == 2
    assert "g_package.ipynb has changed the installed course (checks/chapter_01.py)" in bare.ends[0].stderr
    assert bare.left == {name for name in ("a_honest", *ATTACKS) if name <= "g_package"}


def test_bare_the_run_goes_on_where_it_stopped(bare: Bare) -> None:
    assert bare.ends[1].returncode == 0, bare.ends[1].stderr
    assert set(bare.rows.index.get_level_values(0)) == {"a_honest", *ATTACKS, "z_honest"}
    assert "g_package.ipynb: 1 of" in bare.ends[1].stdout, "its grades are those of the first run"


def test_bare_points_are_those_of_the_isolated_run(bare: Bare) -> None:
    points = bare.rows.groupby("student")["points"].sum()
    assert points.to_dict() == {name: 0 if name == "j_torch" else POINTS for name in points.index}
    assert processes() == []


@pytest.mark.parametrize(
    ("student", "message"),
    [
        ("b_connection", "refused: [Errno 1] Operation not permitted"),
        ("c_descriptors", "it is deleted, or the notebook is of another version"),
        ("d_disk", "bytes"),
        ("e_forks", f"forks: {[-1] * 8}"),
        ("f_looks_around", "['read True', 'read True']"),
        ("g_package", "The check could not be run: SystemExit"),
        ("h_parent", "refused: a graded notebook sends no signals"),
        ("i_swallows", "code cell 2 went on when its 5 seconds were over"),
    ],
)
def test_bare_what_an_attack_reaches(bare: Bare, student: str, message: str) -> None:
    assert message in bare.rows.loc[(student, "find_loop"), "message"]


def test_bare_a_file_has_its_limit_and_nobody_is_called(bare: Bare) -> None:
    assert not bare.called
    written = int(bare.rows.loc[("d_disk", "find_loop"), "message"].split("RuntimeError: ")[1].split(" bytes")[0])
    assert written % 1_000_000_000 <= 2 * 10 * (2 << 20), "ten files in each of two folders, of 2 MB at most"


# Parts


def test_command_closes_what_the_issue_of_protection_is() -> None:
    command = isolation.wrapped(["program"])
    assert command[0] == "bwrap"
    assert command[-2:] == ["--", "program"]
    for option in ("--unshare-user", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--die-with-parent"):
        assert option in command
    pairs = [command[place + 1 : place + 3] for place, word in enumerate(command) if word == "--ro-bind"]
    assert [str(isolation.PACKAGE)] * 2 in pairs
    assert "--bind" not in command, "nothing of the machine may be written"
    assert [str(Path.home())] * 2 not in pairs


@pytest.mark.parametrize(
    ("program", "why"),
    [(None, "bubblewrap is not installed. Install bubblewrap"), ("exit 7", "cannot run here (status 7)")],
)
def test_why_bubblewrap_is_not_used_is_said(
    program: str | None, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if program:
        (tmp_path / "bwrap").write_text(f"#!/bin/sh\n{program}\n")
        (tmp_path / "bwrap").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert why in isolation.why_not.__wrapped__()


FILTER = """
import ctypes, os, socket, threading
from hyperfit_course.grading.filters import put_on
libc, waits, of_thread = ctypes.CDLL(None), threading.Event(), []
thread = threading.Thread(target=lambda: (waits.wait(), of_thread.append(libc.fork())))
thread.start()
put_on()
waits.set()
thread.join()
print(of_thread[0], libc.fork(), libc.vfork(), libc.kill(os.getppid(), 0), libc.kill(os.getpid(), 0))
for refused in (socket.socket, lambda: os.execv("/bin/true", ["true"])):
    try:
        print(refused())
    except PermissionError:
        print("refused")
new = threading.Thread(target=print, args=["a thread"])
new.start()
new.join()
"""


def test_the_kernel_refuses_processes_signals_and_sockets_and_allows_threads() -> None:
    if not filters.works():
        pytest.skip("the kernel takes no filter of system calls")
    path = {"PYTHONPATH": str(isolation.PACKAGE.parent)}
    ended = subprocess.run([sys.executable, "-c", FILTER], env=path, capture_output=True, text=True, timeout=300)
    assert ended.stdout.splitlines() == ["-1 -1 -1 -1 0", "refused", "refused", "a thread"], ended.stderr


def test_another_processor_has_no_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filters.platform, "machine", lambda: "riscv64")
    with pytest.raises(filters.FilterError, match="no filter of system calls for linux on riscv64"):
        filters.put_on()


def test_it_is_said_what_is_protected(monkeypatch: pytest.MonkeyPatch) -> None:
    said = set()
    for reason in ("", "bubblewrap is not installed."):
        for works in (True, False):
            monkeypatch.setattr(isolation, "why_not", lambda reason=reason: reason)
            monkeypatch.setattr(isolation, "works", lambda works=works: works)
            said.add(isolation.statement())
    assert len(said) == 4
    assert sum("NOT PROTECTED" in text for text in said) == 2


def test_what_a_submission_reports_is_read_only_as_the_sandbox_writes_it(tmp_path: Path) -> None:
    sound = '{"exercise": "a", "passed": true, "message": "' + "x" * 9000 + '"}'
    lines = [sound, '{"exercise": "b", "passed": 1, "message": ""}', '{"exercise": []}', "[]", '{"finished": true}']
    (tmp_path / "rows").write_text("\n".join([*(f"key{line}" for line in lines), "key" + "[" * 10**5, sound]))
    rows = list(runner._rows(tmp_path / "rows", "key"))
    assert [set(row) for row in rows] == [{"exercise", "passed", "message"}, {"finished"}]
    assert len(rows[0]["message"]) == runner.MESSAGE_LENGTH


def test_no_variable_of_the_teacher_reaches_a_submission(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "of the teacher")
    assert "SECRET" not in isolation.environment("/home")
