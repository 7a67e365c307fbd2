"""A disk that is full at whatever write: one line, nothing that looks whole and is not, and what was there stays."""

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent / "benchmarks"
ROOMS = {
    "run": {"pages": (0, 30, 55), "files": (5,)},  # as the config, the first checkpoint, the second are written
    "resumed_reviews": {"pages": (12,)},
    "page": {"pages": (2,)},
}


def test_a_run_a_resume_and_a_page_on_a_full_disk_say_so_and_go_on_when_there_is_room():
    if subprocess.run(["unshare", "-rm", "true"], check=False).returncode:
        pytest.skip("no file system of one's own can be made here")
    work = f"import full_disk; print(sum(full_disk.try_cases([n], r) for n, r in {ROOMS}.items()), 'faults')"
    tried = subprocess.run(
        ["unshare", "-rm", sys.executable, "-c", work],
        capture_output=True, text=True, check=False, env=None, cwd=BENCHMARKS,
    )  # fmt: skip
    assert tried.stdout.splitlines()[-1:] == ["0 faults"], tried.stdout + tried.stderr
