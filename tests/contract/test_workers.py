"""Components checked side by side: what processes find is what one finds, and what dies takes nothing with it."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from attnbench.contract import check_all, named
from attnbench.errors import UsageError
from attnbench.registry import Registry

NAMES = ("dot", "gaussian", "channel", "hard", "last", "max_pool", "self", "uniform")
LAWS = ["runs", "permutation", "seed", "factors"]
DEADLY = '''
"""A scoring function that ends the process."""
import os

from attnbench import ScoringFunction, hookimpl


class Deadly(ScoringFunction):
    """It holds the first laws, and is of no use to others."""

    def __init__(self, query_dim: int, key_dim: int) -> None:
        super().__init__()

    def forward(self, query, key):
        if query.shape[1] == 6:
            os.kill(os.getpid(), 9)
        return query.sum(-1, keepdim=True) + key.sum(-1).unsqueeze(-2)


@hookimpl
def register_scoring(register):
    """Contribute `deadly`."""
    register("deadly", Deadly)
'''

DEAF = '''
"""A scoring function that no signal ends."""
import time
from pathlib import Path

from attnbench import ScoringFunction, hookimpl


class Deaf(ScoringFunction):
    """It goes on."""

    def __init__(self, query_dim: int, key_dim: int) -> None:
        super().__init__()

    def forward(self, query, key):
        Path("deaf_hears_nothing").touch()
        while True:
            try:
                time.sleep(60)
            except BaseException:
                pass


@hookimpl
def register_scoring(register):
    """Contribute `deaf`."""
    register("deaf", Deaf)
'''


def test_processes_find_what_one_finds(registry: Registry) -> None:
    components = named(registry, NAMES)
    alone = check_all(components, registry, laws=LAWS)
    side_by_side = check_all(components, registry, laws=LAWS, processes=2)
    assert list(side_by_side) == list(alone) == [f"{c.kind}={c.name}" for c in components]
    assert side_by_side == alone
    assert {finding.status for findings in alone.values() for finding in findings} == {"passed", "excused"}


def test_an_option_that_is_none_is_refused(registry: Registry) -> None:
    with pytest.raises(UsageError, match=r"attention\.heads"):
        check_all(named(registry, NAMES), registry, laws=LAWS, options={"attention": {"heads": 2}}, processes=2)


def test_a_process_that_dies_breaks_the_law_that_it_tried(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(DEADLY)
    registry = Registry.load(tmp_path / "mine.py")
    components = named(registry, ["deadly", *NAMES])
    found = check_all(components, registry, laws=["runs", "shapes", "seed"], processes=2, paths=[tmp_path / "mine.py"])
    runs, shapes, seed = found.pop("scoring=deadly")
    assert (shapes.status, shapes.detail) == ("broken", "it ended the process, with SIGKILL")
    assert {runs.status, seed.status} == {"skipped"}
    assert "'shapes' ended the process" in runs.detail
    assert {finding.status for findings in found.values() for finding in findings} == {"passed"}


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are counted in /proc")
def test_ctrl_c_ends_all_processes_in_a_line() -> None:
    with begun(*NAMES) as started:
        while members(started.pid) < 4:  # itself, two that check, and one of Python's own
            time.sleep(0.1)
        started.send_signal(signal.SIGINT)
        said = started.communicate(timeout=30)[1]
    assert (started.returncode, said) == (130, "attnbench: interrupted\n")
    assert ended(started.pid)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are counted in /proc")
def test_ctrl_c_twice_ends_what_does_not_listen_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "plugins").mkdir()
    for name in ("deaf", "numb"):
        (tmp_path / f"plugins/{name}.py").write_text(DEAF.replace("deaf", name))
    monkeypatch.setenv("ATTNBENCH_PLUGINS", str(tmp_path / "plugins"))
    monkeypatch.chdir(tmp_path)
    with begun("deaf", "numb", *NAMES) as started:
        while len(list(tmp_path.glob("*_hears_nothing"))) < 2:
            time.sleep(0.1)
        started.send_signal(signal.SIGINT)
        time.sleep(1)
        started.send_signal(signal.SIGINT)
        try:
            started.communicate(timeout=30)
        finally:
            with contextlib.suppress(ProcessLookupError):  # it ended
                os.killpg(started.pid, signal.SIGKILL)
    assert started.returncode == 130


def begun(*words: str) -> subprocess.Popen[str]:
    """Begin to check in two processes."""
    command = [sys.executable, "-m", "attnbench", "check", *words, "--jobs", "2"]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)


def ended(group: int) -> bool:
    """Wait until there is no process of a group any more; tell whether that came."""
    until = time.monotonic() + 30
    while members(group) and time.monotonic() < until:
        time.sleep(0.1)
    return members(group) == 0


def members(group: int) -> int:
    """Count the processes of a group."""
    count = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            count += stat.read_text().rpartition(")")[2].split()[2] == str(group)
    return count
