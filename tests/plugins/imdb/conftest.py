"""What the tests of task=imdb share."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from attnbench.plugins.task.imdb import Imdb

from attnbench.__main__ import main

LITTLE = ("trainer.max_steps=6", "trainer.val_every=3", "trainer.batch_size=16", "task.embed_dim=8", "trainer.images=2")


@pytest.fixture
def prepare() -> Callable[..., Imdb]:
    """Make a small task of the made-up reviews, prepared."""

    def make(**options):
        task = Imdb(embed_dim=8, **options)
        task.prepare()
        return task

    return make


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("once") / "ran"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["attnbench", "task=imdb", *LITTLE, f"hydra.run.dir={folder}"])
        assert main() == 0
    return folder


@pytest.fixture
def ran(once: Path, tmp_path: Path) -> Path:
    """The folder of a small run, `ran` where the test stands."""
    return Path(shutil.copytree(once, tmp_path / "ran"))
