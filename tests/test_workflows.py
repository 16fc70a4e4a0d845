"""What forks run on GitHub: only commands of the Makefile, pinned actions, and the permissions that are needed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))


def jobs(path: Path) -> Iterator[dict[str, Any]]:
    yield from yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"].values()


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_commands_are_those_of_the_makefile(path: Path) -> None:
    targets = re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    for job in jobs(path):
        for step in job["steps"]:
            if "run" in step:
                assert re.fullmatch(rf"make ({'|'.join(targets)})", step["run"].strip()), step


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_actions_are_pinned_by_hash_with_their_version(path: Path) -> None:
    uses = re.findall(r"uses: (.*)", path.read_text(encoding="utf-8"))
    assert uses
    for action in uses:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+(\.\d+)*", action), action


WRITING = {
    "actions/deploy-pages": {"pages": "write", "id-token": "write"},
    "actions/github-script": {"issues": "write"},
}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_jobs_read_only_unless_they_deploy_or_report_and_end_some_time(path: Path) -> None:
    assert yaml.safe_load(path.read_text(encoding="utf-8"))["permissions"] == {"contents": "read"}
    for job in jobs(path):
        assert job["timeout-minutes"] <= 90
        used = [step["uses"].split("@")[0] for step in job["steps"] if "uses" in step]
        needed = [permissions for action, permissions in WRITING.items() if action in used]
        assert job.get("permissions") == (needed[0] if needed else None)
