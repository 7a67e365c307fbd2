"""What all tests share."""

import gc
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import reviews
import sentences
import yaml
from hypothesis import settings
from jaxtyping import install_import_hook

with install_import_hook(
    [
        "attnbench.masking",
        "attnbench.kernels",
        "attnbench.hosts",
        "attnbench.sampling",
        "attnbench.tokens",
        "attnbench.plugins",
    ],
    "beartype.beartype",
):  # shapes are enforced here
    from attnbench.registry import Registry

    Registry.load()

import torch
from attnbench.plugins.task.imdb import archive as imdb_archive
from attnbench.plugins.task.translation import corpus

from attnbench.__main__ import main

ROOT = Path(__file__).parent.parent

# a busy machine is no failure; and what a build finds, the next build of the same code finds too
settings.register_profile("attnbench", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("attnbench")


def pytest_collection_finish() -> None:
    """Look for garbage no longer among what was imported, as a command does: it stays."""
    gc.collect()
    gc.freeze()


class Said(NamedTuple):
    """What a command answered."""

    code: int
    out: str
    err: str


@pytest.fixture(autouse=True, scope="session")
def small_reviews(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give the made-up archive, which task=imdb reads in place of the download: no test uses the network."""
    folder = tmp_path_factory.mktemp("reviews")
    archive = reviews.write(folder / "small.tar.gz")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATTNBENCH_DATA", str(folder / "cache"))
        patch.setattr(imdb_archive, "PER_LABEL", reviews.PER_LABEL)
        patch.setattr(imdb_archive, "fetch", lambda folder: archive)
        yield archive


@pytest.fixture(autouse=True, scope="session")
def small_sentences(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give made-up pairs, which task=translation reads in place of the download."""
    path = sentences.write(tmp_path_factory.mktemp("sentences") / "pairs.txt")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus, "fetch", lambda folder: path)
        yield path


#: `python -m attnbench` that heeds Ctrl-C, also where the tests were started in the background, which ignores it.
HEEDING = [
    sys.executable,
    "-c",
    "import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
    "runpy.run_module('attnbench', run_name='__main__')",
]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """Call `python -m attnbench ...` in this process, standing in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["attnbench", *arguments])
        capfd.readouterr()
        code = main()
        return Said(code, *capfd.readouterr())

    return call


def copy_checkout(folder: Path) -> Path:
    """Copy what git keeps of the checkout, more or less."""
    kept_out = shutil.ignore_patterns(".*", "runs", "build", "dist", "*.egg-info", "__pycache__")
    return Path(shutil.copytree(ROOT, folder, ignore=kept_out))


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the sdist, and the wheel built from it."""
    folder = tmp_path_factory.mktemp("dist")
    source = copy_checkout(tmp_path_factory.mktemp("source") / "attnbench")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    return folder


class Environment(NamedTuple):
    """A fresh virtual environment: its interpreter, and where its packages lie."""

    python: str
    site: Path

    def install(self, *what: Path | str) -> None:
        """Install wheels or projects, without what they need and without the network."""
        quietly = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check"]
        where = [f"--python={self.python}", "install", *quietly, *map(str, what)]
        subprocess.run([sys.executable, "-m", "pip", *where], check=True, capture_output=True, text=True)


def make_environment(folder: Path) -> Environment:
    """Make an environment that is lent by path the libraries that attnbench needs.

    A path carries no other installation of attnbench along.
    """
    venv.create(folder, with_pip=False)
    python = str(folder / "bin" / "python")
    where = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    site = Path(subprocess.run(where, capture_output=True, text=True, check=True).stdout.strip())
    (site / "lent.pth").write_text(sysconfig.get_path("purelib"))
    return Environment(python, site)


@pytest.fixture(scope="session")
def environment(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment that has the wheel."""
    fresh = make_environment(tmp_path_factory.mktemp("environment"))
    fresh.install(*built.glob("*.whl"))
    return fresh


#: A run that takes a second or two.
SMALL = ("task.lines=600", "trainer.max_steps=6", "trainer.val_every=3", "trainer.images=2", "trainer.log_every=1")


@pytest.fixture(scope="session")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder, made once; see `folder`."""
    folder = tmp_path_factory.mktemp("once") / "ran"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["attnbench", *SMALL, "attention=multihead", f"hydra.run.dir={folder}"])
        assert main() == 0
    return folder


@pytest.fixture
def folder(ran: Path, tmp_path: Path) -> Path:
    """A run folder, `ran` in the current one, to be changed."""
    return Path(shutil.copytree(ran, tmp_path / "ran"))


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """Write a run folder under `runs/`; a keyword changes one thing about it."""

    def make(
        attention="soft", seed=0, accuracy=0.5, *, scoring="additive", options=None, trainer=None, task="date",
        metrics=None, curve=None, folder=None, **result,
    ):  # fmt: skip
        made = tmp_path / "runs" / (folder or f"{task}/{attention}-{scoring}/2026-01-01_00-00-{seed:02}_seed{seed}")
        made.mkdir(parents=True)
        config = {
            "seed": seed,
            "trainer": {"max_epochs": 1, "images": 3, **(trainer or {})},
            "optimizer": {"name": "adam", "lr": 0.01},
            "attention": {"name": attention, **(options or {})},
            "scoring": None if scoring is None else {"name": scoring},
            "task": {"name": task, "lines": 50000},
        }
        whole = {
            "status": "completed", "primary": "test/exact_match", "mode": "max", "goal": 1.0,
            "metrics": {"test/exact_match": accuracy, "test/loss": 1 - accuracy, **(metrics or {})},
            "parameters": 1000, "epochs": 1.0, "examples_seen": 43000, "train_seconds": 20.0,
            "examples_per_second": 2150.0, "peak_memory_bytes": 2**29, "versions": {"attnbench": "0.1.0"},
            "curve": curve or [], **result,
        }  # fmt: skip
        (made / "config.yaml").write_text(yaml.safe_dump(config))
        (made / "result.json").write_text(json.dumps(whole))
        return made

    return make


@pytest.fixture
def points() -> Callable[..., list[dict[str, float]]]:
    """Write a curve: a validation every 100 steps, which take 5 seconds."""

    def draw(*values, metric="val/exact_match"):
        return [
            {"step": 100 * n, "examples": 6400 * n, "seconds": 5.0 * n, metric: value}
            for n, value in enumerate(values, start=1)
        ]

    return draw
