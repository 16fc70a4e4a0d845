"""A study and a training that are killed at random moments end as if nothing had happened."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "tools" / "kill_commands.py"


def kill(command: str, kills: int) -> str:
    """What the script says. A process of its own: libraries that have computed already do not survive a fork."""
    asked = [sys.executable, str(SCRIPT), command, "--kills", str(kills)]
    ended = subprocess.run(asked, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.count("Kill ") == kills
    return ended.stdout


NEEDS_FORK = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked, which Windows cannot")


@NEEDS_FORK
@pytest.mark.parametrize("command", ["study", "train"])
def test_ten_kills_at_random_moments_leave_what_an_undisturbed_run_leaves(command: str) -> None:
    kill(command, 10)


@NEEDS_FORK
@pytest.mark.slow
@pytest.mark.parametrize("command", ["study", "train"])
def test_twenty_kills_lose_nothing(command: str) -> None:
    print(kill(command, 20))
