"""Pairs of sentences: read, and shared out by source."""

import zipfile

import pytest
from attnbench.plugins.task.translation import corpus

from attnbench import UsageError, downloads

FETCH = corpus.fetch  # while tests run, made-up pairs stand in its place
TEXT = "".join(f"Number {n} is here.\tLe numéro {n} est ici.\tCC-BY\n" for n in range(40))


def parse(text, columns=(0, 1), max_words=12):
    return corpus.parse(text, columns, max_words, True, "task.file=x")


def test_all_translations_of_a_source_stay_with_it():
    pairs = parse(TEXT + "NUMBER 7 is here.\tC'est le numéro 7.\nNumber 7 is here.\tLe numéro 7 est ici.\n")
    assert len(pairs) == 40
    assert dict(pairs)["number 7 is here ."] == ["le numéro 7 est ici .", "c' est le numéro 7 ."]


def test_no_source_stands_in_two_splits():
    parts = corpus.split(parse(TEXT), seed=0)
    sources = [source for part in parts.values() for source, _ in part]
    assert {name: len(part) for name, part in parts.items()} == {"test": 4, "val": 4, "train": 32}
    assert len(set(sources)) == 40
    assert corpus.split(parse(TEXT), seed=1)["test"] != parts["test"]


def test_a_source_stays_in_its_split_when_the_file_has_another_order():
    lines = TEXT.splitlines(keepends=True)
    assert sorted(corpus.split(parse("".join(lines[::-1])), 0)["test"]) == sorted(corpus.split(parse(TEXT), 0)["test"])


def test_columns_choose_the_direction():
    assert parse(TEXT, columns=(1, 0))[0] == ("le numéro 0 est ici .", ["number 0 is here ."])


def test_long_sentences_are_left_out():
    assert len(parse(TEXT + "one two three four five six\tun\na\tun deux trois quatre cinq six\n", max_words=5)) == 40


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a b c\n", "task.file=x, line 1: expected a column 1 (the first is 0), separated by tabs; there are 1"),
        ("a\tb\n", "task.file=x: 1 sources of at most 12 words; at least 20 are needed"),
    ],
)
def test_what_is_no_file_of_pairs_is_a_line(text, message):
    with pytest.raises(UsageError) as said:
        parse(text)
    assert str(said.value) == message


def test_an_archive_is_read_without_its_notes(tmp_path):
    path = tmp_path / "pairs.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("_about.txt", "notes")
        archive.writestr("fra.txt", "\ufeff" + TEXT)
    assert corpus.read(path) == TEXT


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.txt", None, "cannot be read: No such file or directory"),
        ("latin.txt", "été".encode("latin1"), "not a text in UTF-8: invalid continuation byte at byte 0"),
        ("cut.zip", b"PK", "cannot be read: File is not a zip file"),
    ],
)
def test_a_file_that_cannot_be_read_is_a_line(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError) as said:
        corpus.read(path)
    assert str(said.value) == f"task.file={path}: {message}"


def test_without_a_network_the_line_says_what_to_do(tmp_path, monkeypatch):
    def offline(*args, **options):
        raise ConnectionError("no route")

    monkeypatch.setattr("pooch.retrieve", offline)
    with pytest.raises(UsageError, match=r"cannot be downloaded .*; start again, or use a file .* task\.file=PATH$"):
        downloads.fetch(corpus.URL, None, tmp_path, instead=corpus.OWN_FILE)


def test_a_page_in_place_of_the_archive_is_a_line_and_not_kept(tmp_path, monkeypatch):
    def page(url, known_hash, name, folder, **options):
        (folder / name).write_text("<html>log in to this network</html>")

    monkeypatch.setattr("pooch.retrieve", page)
    with pytest.raises(UsageError, match=r"fra-eng\.zip: what came is no archive; start again, or use a file .* task"):
        FETCH(tmp_path)
    assert not (tmp_path / "fra-eng.zip").exists()
