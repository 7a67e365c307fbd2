"""Files are written whole or not at all."""

from pathlib import Path

import pytest

from attnbench.files import whole, write_text


def test_a_file_stays_what_it_was_where_another_could_not_be_written(tmp_path):
    write_text(tmp_path / "page.html", "before")
    with pytest.raises(OSError, match="full"), whole(tmp_path / "page.html") as partial:
        partial.write_text("half of")
        raise OSError("full")
    assert (tmp_path / "page.html").read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_a_link_stays_one_and_what_is_no_file_is_written_to(tmp_path):
    (tmp_path / "link").symlink_to("target")
    write_text(tmp_path / "link", "text")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == "text"
    with whole(Path("/dev/null")) as lent:
        assert str(lent) == "/dev/null"


def test_an_error_names_the_file_that_was_asked_for(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        write_text(tmp_path / "nowhere" / "page.html", "text")
    assert caught.value.filename == str(tmp_path / "nowhere" / "page.html")
