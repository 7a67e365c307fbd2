"""The data set's files, of which tests/reviews.py writes a small archive."""

import hashlib
import re
import tarfile
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import reviews
from attnbench.plugins.task.imdb import archive

from attnbench import UsageError

FETCH = archive.fetch  # the real one: a fixture replaces it


@pytest.fixture(scope="module")
def read(small_reviews):
    return archive.read_archive(small_reviews, "task.archive")


def test_an_archive_is_read_whole(read):
    assert {split: Counter(r.label for r in part) for split, part in read.items()} == {
        "train": {0: 40, 1: 40}, "test": {0: 40, 1: 40},
    }  # fmt: skip
    assert "wonderful" in read["train"][-1].text or "superb" in read["train"][-1].text


def test_an_extracted_folder_gives_the_same_reviews(read, small_reviews, tmp_path):
    with tarfile.open(small_reviews) as file:
        file.extractall(tmp_path, filter="data")
    assert archive.read_folder(tmp_path / "aclImdb") == read


@pytest.mark.parametrize("name", ["../outside.txt", "/etc/outside.txt", "aclImdb/train/../../../x.txt"])
def test_a_member_outside_the_folder_is_refused(tmp_path, name):
    outside = tarfile.TarInfo(name)
    outside.size = 1
    path = reviews.write(tmp_path / "hostile.tar.gz", outside)
    with pytest.raises(UsageError, match=f"its member '{re.escape(name)}' lies outside the folder"):
        archive.read_archive(path, "task.archive")
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_in_place_of_a_review_is_refused(tmp_path):
    link = tarfile.TarInfo("aclImdb/train/pos/7_9.txt")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    with pytest.raises(UsageError, match="is a link, not a review"):
        archive.read_archive(reviews.write(tmp_path / "hostile.tar.gz", link), "task.archive")


def test_a_truncated_archive_is_one_line_that_says_what_to_do(small_reviews, tmp_path):
    cut = tmp_path / "cut.tar.gz"
    cut.write_bytes(small_reviews.read_bytes()[:3000])
    with pytest.raises(UsageError, match=r"cut\.tar\.gz: truncated or altered .*task\.archive=PATH"):
        archive.read_archive(cut, "task.archive")


def test_counts_that_are_not_the_data_sets_are_said(tmp_path):
    path = reviews.write(tmp_path / "few.tar.gz", leave_out="aclImdb/test/pos/1")
    with pytest.raises(UsageError, match="expected 40 reviews of each split and label, found 40 train/neg, 40 train/p"):
        archive.read_archive(path, "task.archive")


def test_reviews_without_their_films_are_said(tmp_path):
    path = reviews.write(tmp_path / "few.tar.gz", leave_out="aclImdb/train/urls_pos")
    with pytest.raises(UsageError, match=r"train/urls_pos\.txt names no film for review 0"):
        archive.read_archive(path, "task.archive")


def test_an_archive_is_downloaded_once_and_anew_where_it_came_cut_or_altered(monkeypatch, small_reviews, tmp_path):
    whole, sent = small_reviews.read_bytes(), []

    class Server(BaseHTTPRequestHandler):
        def do_GET(self):
            body = answers[len(sent)]
            sent.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", str(len(whole)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    answers = [whole[: len(whole) // 2], whole[:-1] + b"x", whole]
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(archive, "URL", f"http://127.0.0.1:{server.server_port}/aclImdb_v1.tar.gz")
    monkeypatch.setattr(archive, "SHA256", hashlib.sha256(whole).hexdigest())
    try:
        for line in ("cannot be downloaded", "by its checksum this is not the file expected"):
            with pytest.raises(UsageError, match=f"{line}.*; start again, or use files you have: task.archive=PATH"):
                FETCH(tmp_path)
            assert not list(tmp_path.iterdir())
        for _ in range(2):
            assert FETCH(tmp_path).read_bytes() == whole
    finally:
        server.shutdown()
        server.server_close()
    assert len(sent) == 3
