"""Prepared arrays in the cache folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import reviews
import torch
from attnbench.plugins.task.imdb import archive
from attnbench.plugins.task.imdb.cache import prepare as prepare_arrays
from attnbench.plugins.task.imdb.preparation import Preprocessing

from attnbench import downloads


@pytest.fixture
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("ATTNBENCH_DATA", str(tmp_path / "cache"))
    return tmp_path / "cache" / "imdb"


def test_a_second_start_reads_the_cache_and_gives_the_same(cache, prepare, monkeypatch):
    first = prepare()
    monkeypatch.setattr(archive, "read_archive", None)
    second = prepare()
    assert torch.equal(first.data("test").rows, second.data("test").rows)
    assert first.vocabulary.digest() == second.vocabulary.digest()


def test_what_shapes_the_arrays_has_a_cache_of_its_own(cache, prepare):
    prepare()
    prepare(max_tokens=9)
    prepare(punctuation=False)
    assert len(list(cache.glob("*.npz"))) == 3
    assert prepare(max_tokens=9).data("test").lengths.max() == 9


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_a_damaged_cache_is_made_anew_and_says_so(cache, prepare, capsys, damage):
    first = prepare()
    (path,) = cache.glob("*.npz")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes({"flip": bytes(content), "cut": bytes(content[:1000]), "empty": b""}[damage])
    capsys.readouterr()
    second = prepare()
    assert "damaged" in capsys.readouterr().err
    assert torch.equal(first.data("train").rows, second.data("train").rows)


def test_of_two_runs_at_once_one_prepares_and_the_other_waits(cache, small_reviews):
    program = (
        "import sys; from attnbench.registry import Registry; Registry.load();"
        "from attnbench.plugins.task.imdb import archive, cache, preparation; archive.PER_LABEL = int(sys.argv[2]);"
        "options = preparation.Preprocessing(True, None, (1,), 512, 'films');"
        "from pathlib import Path; cache.prepare(options, Path(sys.argv[1]), None, None)"
    )
    command = [sys.executable, "-c", program, str(small_reviews), str(reviews.PER_LABEL)]
    with downloads.exclusive(cache):
        processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
        for process in processes:
            assert "waiting for it" in process.stderr.readline()
    said = "".join(process.communicate()[1] for process in processes)
    assert [process.returncode for process in processes] == [0, 0]
    assert said.count("preparing the reviews") == 1


@pytest.fixture
def official():
    path = os.environ.get("ATTNBENCH_IMDB_ARCHIVE")
    if not path:
        pytest.skip("ATTNBENCH_IMDB_ARCHIVE does not name the data set's archive")
    return Path(path)


def test_the_official_archive_is_prepared_as_published(official, monkeypatch, tmp_path):
    monkeypatch.setattr(archive, "PER_LABEL", 12_500)
    monkeypatch.setenv("ATTNBENCH_DATA", str(tmp_path))
    prepared = prepare_arrays(Preprocessing(True, None, (2,), 512, "films"), official, None, None)
    assert {split: len(labels) for split, (_, _, labels) in prepared.splits.items()} == {
        "train": 22_500, "val": 2_500, "test": 25_000,
    }  # fmt: skip
    assert all(labels.mean() == 0.5 for _, _, labels in prepared.splits.values())
    assert prepared.duplicates == (123, 96, 199)
