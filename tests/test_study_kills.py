"""A study that is killed at random moments ends as if nothing had happened."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "tools" / "study_kills.py"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked, which Windows cannot")
def test_ten_kills_at_random_moments_leave_the_json_of_an_undisturbed_study() -> None:
    # A process of its own: libraries that have computed already do not survive a fork.
    ended = subprocess.run([sys.executable, str(SCRIPT), "--kills", "10"], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.count("Kill ") == 10
