"""What a run prints can never fail it: its output may be piped into a program that ends, or onto a full disk."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import SMALL

PROGRAM = f"{sys.executable} -m attnbench {' '.join(SMALL)} trainer.images=0 hydra.run.dir=ran"


@pytest.mark.parametrize("end", ["| true", "2>&1 | true", ">/dev/full", ">/dev/full 2>&1", ">&- 2>&-"])
def test_a_run_is_completed_wherever_its_output_goes(tmp_path: Path, end: str) -> None:
    command = f"set -o pipefail; {PROGRAM} {end}"
    finished = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)
    result = json.loads((tmp_path / "ran/result.json").read_text())
    assert result["status"] == "completed", finished.stderr
    assert "test/exact_match" in result["metrics"]
    assert finished.returncode == 0, finished.stderr
    assert "Traceback" not in finished.stderr and "Exception ignored" not in finished.stderr
