"""The character language model: windows of a text, and what is said of files that are no text."""

import io
import math
import tarfile

import pytest
import torch

import attnbench
from attnbench import Draws, TokenBatch


def task(**options):
    made = attnbench.build("task", "language_model", **options)
    made.prepare()
    return made


def test_targets_are_the_next_characters_of_the_text(tmp_path):
    file = tmp_path / "text.txt"
    file.write_text("abcdefghij" * 20)
    made = task(file=file, block=8).data("train")[[0, 1, 2]]

    assert made.tokens.shape == (3, 8)
    assert torch.equal(made.targets, (made.tokens + 1) % 10)
    assert made.scored.all()


@pytest.mark.parametrize(("split", "letter"), [("train", "a"), ("val", "b"), ("test", "c")])
def test_each_split_has_a_part_of_the_text_of_its_own(tmp_path, split, letter):
    file = tmp_path / "text.txt"
    file.write_text("a" * 800 + "b" * 100 + "c" * 100)
    made = task(file=file, block=20)
    batch = made.data(split)[list(range(50))]

    assert {made.label(token) for token in torch.cat([batch.tokens, batch.targets]).unique().tolist()} == {letter}


def test_bits_are_the_loss_in_bits_and_the_floor_is_that_of_knowing_nothing():
    made = task()
    sequences = made.generate(Draws(0, [0]))
    batch = TokenBatch(*sequences[:3], sequences.targets, torch.zeros(1))
    bits = made.measure(torch.zeros(64, made.num_tokens), batch)["bits"]

    assert bits.mean() == pytest.approx(math.log2(made.num_tokens)) == pytest.approx(made.floor)


def test_an_archive_of_texts_is_read_one_after_the_other(tmp_path):
    path = tmp_path / "reviews.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, content in (("a/1.txt", b"good " * 40), ("a/2.txt", b"bad! " * 40), ("a/readme", b"zzz")):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))

    made = task(file=path, block=8)
    assert set(made.characters) == set("good bad!\n")


@pytest.mark.parametrize(("content", "word"), [
    (b"", "empty"), (b"  \n", "empty"), (b"\xff\xfe\xff\x00", "UTF-8"), (b"a\0b" * 400, "character 0"),
    (b"short", "needs 650 or more"),
])  # fmt: skip
def test_what_is_no_text_is_refused_in_a_line(tmp_path, content, word):
    file = tmp_path / "text.txt"
    file.write_bytes(content)
    with pytest.raises(attnbench.UsageError, match=word) as refused:
        task(file=file)
    assert "\n" not in str(refused.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    for name in ("nothing.txt", "nothing.tar.gz"):
        with pytest.raises(attnbench.UsageError, match=name):
            task(file=tmp_path / name)


def test_what_was_saved_is_what_predicts(tmp_path):
    made = task()
    made.save(tmp_path)
    other = attnbench.build("task", "language_model")
    other.restore(tmp_path)

    assert other.characters == made.characters
    assert other.encode("look") == made.encode("look")
    assert other.separator.join(map(other.label, other.encode("look"))) == "look"
    with pytest.raises(attnbench.UsageError, match="'#'"):
        other.encode("#")
