"""Downloads: once, checked, by one process at a time, and one line when there is no network."""

import errno
import functools
import hashlib
import http.server
import socket
import subprocess
import sys
import threading

import pytest

import attnbench
from attnbench import downloads

CONTENT = b"a small file\n"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Quiet(http.server.SimpleHTTPRequestHandler):
    requests = 0

    def do_GET(self):
        type(self).requests += 1
        super().do_GET()

    def log_message(self, *args):
        pass


@pytest.fixture
def url(tmp_path):
    (tmp_path / "served").mkdir()
    (tmp_path / "served/small.txt").write_bytes(CONTENT)
    handler = type("Handler", (Quiet,), {})
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(handler, directory=tmp_path / "served")
    ) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        address = f"http://127.0.0.1:{server.server_port}/small.txt"
        yield address, handler
        server.shutdown()
        thread.join()


def test_a_file_is_fetched_once(url, tmp_path, capsys):
    address, handler = url
    for _ in range(2):
        path = downloads.fetch(address, SHA256, tmp_path / "mine", size="13 bytes")
        assert path == tmp_path / "mine/small.txt"
        assert path.read_bytes() == CONTENT
    assert handler.requests == 1
    assert capsys.readouterr().err == f"mine: downloading {address} (13 bytes) to {tmp_path / 'mine'}\n"


def test_a_file_that_was_altered_is_fetched_anew(url, tmp_path):
    address, handler = url
    downloads.fetch(address, SHA256, tmp_path / "mine").write_bytes(b"altered")
    assert downloads.fetch(address, SHA256, tmp_path / "mine").read_bytes() == CONTENT
    assert handler.requests == 2


def test_of_an_address_that_serves_what_is_newest_what_came_is_kept(url, tmp_path, capsys):
    address, handler = url
    path = downloads.fetch(address, None, tmp_path / "mine")
    assert path.with_name("small.txt.sha256").read_text() == SHA256
    (tmp_path / "served/small.txt").write_bytes(b"newer\n")
    assert downloads.fetch(address, None, tmp_path / "mine").read_bytes() == CONTENT
    assert handler.requests == 1
    capsys.readouterr()
    path.write_bytes(b"altered")
    assert downloads.fetch(address, None, tmp_path / "mine").read_bytes() == b"newer\n"
    assert capsys.readouterr().err.startswith(f"mine: {path} is not what was downloaded; it is downloaded anew\n")
    assert downloads.fetch(address, None, tmp_path / "mine").read_bytes() == b"newer\n"
    assert handler.requests == 2


def test_what_a_user_has_put_there_is_taken_where_no_checksum_is_known(url, tmp_path):
    address, handler = url
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/small.txt").write_bytes(b"brought along")
    assert downloads.fetch(address, None, tmp_path / "mine").read_bytes() == b"brought along"
    assert handler.requests == 0


@pytest.mark.parametrize("sha256", [SHA256, None])
def test_what_is_cut_off_on_the_way_is_not_kept(url, tmp_path, sha256):
    address, handler = url

    def cut(self):
        self.send_response(200)
        self.send_header("Content-Length", len(CONTENT))
        self.end_headers()
        self.wfile.write(CONTENT[:5])

    handler.do_GET = cut
    with pytest.raises(attnbench.UsageError, match=r"small.txt: cannot be downloaded \(.*\); start again"):
        downloads.fetch(address, sha256, tmp_path / "mine")
    assert not (tmp_path / "mine/small.txt").exists()


def test_what_has_another_checksum_is_refused_and_not_kept(url, tmp_path):
    address, _ = url
    with pytest.raises(attnbench.UsageError, match="by its checksum this is not the file expected; start again, or do"):
        downloads.fetch(address, "0" * 64, tmp_path / "mine", instead="do otherwise")
    assert not (tmp_path / "mine/small.txt").exists()


def test_without_a_network_one_line_says_what_to_do(tmp_path):
    with socket.socket() as closed:  # bound, not listening: connections are refused
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}/small.txt"
        with pytest.raises(attnbench.UsageError) as caught:
            downloads.fetch(address, SHA256, tmp_path / "mine", instead="use a file you have: task.file=PATH")
    line = f"{address}: cannot be downloaded (ConnectionError); start again, or use a file you have: task.file=PATH"
    assert str(caught.value) == line


def test_a_full_disk_says_where_to_put_the_data(tmp_path):
    with (
        pytest.raises(attnbench.UsageError, match="No space left on device; set ATTNBENCH_DATA to a folder with 4 MB"),
        downloads.explain_disk(tmp_path, room="4 MB of room"),
    ):
        raise OSError(errno.ENOSPC, "full")


HOLD = "import sys, time, filelock as f; x = f.FileLock(sys.argv[1]); x.acquire(); print(flush=True); time.sleep(1)"
TRY = "import sys, filelock; filelock.FileLock(sys.argv[1]).acquire(timeout=0)"


def test_another_process_is_waited_for_and_that_is_said(tmp_path, capsys):
    folder = tmp_path / "mine"
    folder.mkdir()
    program = [sys.executable, "-c", HOLD, str(folder / "lock")]
    with subprocess.Popen(program, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        with downloads.exclusive(folder):
            assert other.wait() == 0
            assert capsys.readouterr().err == f"mine: another run is at work in {folder}; waiting for it\n"
            refused = subprocess.run(
                [sys.executable, "-c", TRY, str(folder / "lock")], capture_output=True, check=False
            )
            assert b"Timeout" in refused.stderr


def test_the_cache_is_where_the_user_says(monkeypatch, tmp_path):
    monkeypatch.setenv("ATTNBENCH_DATA", str(tmp_path))
    assert downloads.cache_folder("mine") == tmp_path / "mine"
    monkeypatch.delenv("ATTNBENCH_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert downloads.cache_folder("mine") == tmp_path / "cache/attnbench/mine"
