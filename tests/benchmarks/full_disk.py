"""Commands whose disk is full, a page later each time, until they need no more room; and what they leave.

    python tests/benchmarks/full_disk.py [STEP] [CASE ...]

Each of `CASES` (or those named) runs on a file system of its own, a tmpfs within `unshare -rm`, that has 0, STEP,
2 STEP, ... free pages of 4 KB (STEP is 1), and then on one that has room for 0, 1, 2, ... more files. Each time it ends
in one line and exit code 2, or succeeds; a checkpoint that is there can be read, and a run that failed is marked so, or
its folder is nobody's. Then the disk gets room, and what is typed next comes to what a disk with room came to. Prints a
line for each case, and one for each fault; ends with 1 if there is one.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

TESTS = Path(__file__).parents[1]
sys.path.insert(0, str(TESTS))

Words = tuple[str, ...]
#: Where the file system is, in the mount namespace of this process.
DISK = Path("/mnt")
SMALL = ("task.lines=300", "task.hidden_dim=4", "trainer.images=1", "trainer.max_steps=4", "trainer.val_every=2")
DATE = (*SMALL, "trainer.log_every=1", "hydra.run.dir=ran")
REVIEWS = ("task=imdb", "task.embed_dim=4", "trainer.max_steps=2", "trainer.images=0", "hydra.run.dir=ran")
TEXT = ("task=language_model", "task.width=4", "trainer.max_steps=2", "trainer.images=0", "hydra.run.dir=ran")
PAGE = ("compare", "ran", "--html", "page.html")
PREDICT = ("predict", "ran", "May 5, 1999")
BENCH = ("bench", "attention=last", "length=8", "rounds=1", "reference=null", "output=out")


class Case(NamedTuple):
    """A command whose disk is full.

    Attributes:
        words: of the command.
        before: the commands that had room.
        kept: what must be there afterwards as it was, or as the command makes it.
    """

    words: Words
    before: tuple[Words, ...] = ()
    kept: Words = ()


CASES = {
    "run": Case(DATE),
    "resume": Case(("resume=ran", "trainer.max_steps=8"), (DATE,)),
    "reviews": Case(REVIEWS),
    "resumed_reviews": Case(("resume=ran", "trainer.max_steps=4"), (REVIEWS,)),
    "text": Case(TEXT),
    "resumed_text": Case(("resume=ran", "trainer.max_steps=4"), (TEXT,)),
    "sweep": Case(("-m", *SMALL, "seed=0,1", "hydra.sweep.dir=sweep")),
    "page": Case(PAGE, (DATE,), ("page.html",)),
    "page_again": Case(PAGE, (DATE, PAGE), ("page.html",)),
    "picture": Case(PREDICT, (DATE,), ("prediction.png",)),
    "bench": Case(BENCH, (), ("out/bench.png",)),
    "new": Case(("new", "attention", "mine", "--package")),
    "download": Case(("download",)),
}


def mount(options: str) -> None:
    """Mount the file system, or, with `remount`, give it another size."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", DISK], check=True)


@contextlib.contextmanager
def disk(filled: Path | None) -> Iterator[None]:
    """Make a file system with room, that holds what a folder holds, and stand in it."""
    mount("size=64m,nr_inodes=1000")
    try:
        if filled is not None:
            shutil.copytree(filled, DISK, dirs_exist_ok=True)
        os.chdir(DISK)
        yield
    finally:
        os.chdir("/")
        subprocess.run(["umount", DISK], check=True)


def leave_room(pages: int | None = None, files: int | None = None) -> None:
    """Let it have so many free pages, or so much room for files; else room."""
    used = os.statvfs(DISK)
    size = (used.f_blocks - used.f_bfree + pages) * used.f_frsize if pages is not None else 2**26
    inodes = used.f_files - used.f_ffree + files if files is not None else 1000
    mount(f"remount,size={max(size, used.f_frsize)},nr_inodes={inodes}")


def call(words: Words) -> tuple[int, str]:
    """Run a command in a process of its own; return its exit code, and what it said on stderr."""
    with tempfile.TemporaryFile("w+") as said:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.dup2(said.fileno(), 2)
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
                code = fetch() if words[0] == "download" else run(words)
            except BaseException:
                traceback.print_exc()
            sys.stderr.flush()
            os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        said.seek(0)
        return code, said.read()


def run(words: Words) -> int:
    """Do what the command line does."""
    from attnbench.__main__ import main

    sys.argv[1:] = words
    return main()


def fetch() -> int:
    """Download 50 KB from a server of this process."""
    from attnbench import UsageError, downloads

    served = TESTS / "plugins" / "test_scoring.py"
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=served.parent)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/{served.name}"
        folder = Path("cache/mine")
        try:
            with downloads.exclusive(folder):
                downloads.fetch(url, hashlib.sha256(served.read_bytes()).hexdigest(), folder)
        except UsageError as error:
            print(f"attnbench: {error}", file=sys.stderr)
            return 2
        finally:
            server.shutdown()
    return 0


def state(case: Case) -> dict[str, Any]:
    """Return what a command came to: what two times of one command have alike."""
    import torch

    found: dict[str, Any] = {}
    for path in sorted(DISK.rglob("*")):
        name = re.sub(r"^sweep/.*_(seed\d)", r"sweep/\1", str(path.relative_to(DISK)))  # of two, the later
        if path.suffix == ".ckpt":
            saved = torch.load(path, weights_only=True)["state_dict"]
            found[name] = {key: value.tolist() for key, value in saved.items()}
        elif path.name == "result.json":
            result = json.loads(path.read_text())
            found[name] = {key: result.get(key) for key in ("status", "steps", "metrics")}
        elif name.startswith("cache/imdb"):
            pass  # by whether the reviews were prepared for a run or a resume it has other names
        elif path.suffix in (".npz", ".py", ".toml", ".md") or name in case.kept:
            found[name] = path.read_bytes() if path.suffix in (".py", ".toml", ".md") else path.stat().st_size > 0
        elif path.name == "config.yaml":
            found[name] = path.read_text()
    return found


def judge(case: Case, code: int, said: str, before: dict[str, bytes]) -> str:
    """Return what is wrong with what a full disk left; "" for nothing."""
    lines = said.strip().splitlines()
    if "Traceback" in said or code not in (0, 2) or (code == 2 and not (lines and lines[-1].startswith("attnbench: "))):
        return f"exit code {code}: {said[-1500:]}"
    try:
        now = state(case)
    except Exception as error:
        return f"cannot be read: {type(error).__name__}: {error}"
    for name, data in before.items():
        if not (DISK / name).exists() or (code == 2 and (DISK / name).read_bytes() != data and name in case.kept):
            return f"{name} is not what it was"
    for path in DISK.rglob("*"):
        name = str(path.relative_to(DISK))
        if "partial" in name or (code == 2 and name in case.kept and name not in before):
            return f"{name} was left"
    for name, result in now.items():
        if name.endswith("result.json") and result["status"] == "running":
            return f"{name} says running"
    return ""


def go_on(case: Case) -> str:
    """Give the disk room, and type what is typed next; return what is wrong."""
    leave_room()
    words = case.words
    if words[-1] == "hydra.run.dir=ran" and Path("ran/config.yaml").exists():
        words = ("resume=ran",)
    if words[0] == "new":
        shutil.rmtree("attnbench-mine", ignore_errors=True)
    code, said = call(words)
    return "" if code == 0 else f"{words[0]} did not go on: {said[-1000:]}"


def try_case(name: str, rooms: Mapping[str, Iterable[int]]) -> int:
    """Try a case with so much room for pages, and for files, until it is enough; return the number of faults."""
    case, faults = CASES[name], 0
    with tempfile.TemporaryDirectory() as kept:
        with disk(None):
            for words in case.before:
                code, said = call(words)
                assert code == 0, said
            shutil.copytree(DISK, kept, dirs_exist_ok=True)
        before = {str(p.relative_to(kept)): p.read_bytes() for p in Path(kept).rglob("*") if p.is_file()}
        with disk(Path(kept)):
            code, said = call(case.words)
            assert code == 0, said
            whole = state(case)
        for what, sizes in rooms.items():
            for room in sizes:
                with disk(Path(kept)):
                    leave_room(**{what: room})
                    code, said = call(case.words)
                    wrong = judge(case, code, said, before) or go_on(case)
                    came = {} if wrong else state(case)
                    differing = [name for name in {**whole, **came} if came.get(name) != whole.get(name)]
                    if not wrong and differing:
                        wrong = f"{', '.join(differing)} differ from what comes of a disk with room"
                if wrong:
                    faults += 1
                    print(f"{name}: {room} free {what}: {wrong}", flush=True)
                if code == 0:
                    break
            print(f"{name}: up to {room} free {what}", flush=True)
    return faults


def try_cases(names: Iterable[str], rooms: Mapping[str, Iterable[int]]) -> int:
    """Try cases, in a mount namespace of their own; return the number of faults."""
    import reviews
    import torch
    from attnbench.plugins.task.imdb import archive

    from attnbench import run as _  # noqa: F401 (imported once)
    from attnbench.registry import Registry

    torch.set_num_threads(1)
    Registry.load()
    with tempfile.TemporaryDirectory() as folder:
        made = reviews.write(Path(folder) / "reviews.tar.gz")
        archive.PER_LABEL, archive.fetch = reviews.PER_LABEL, lambda folder: made
        os.environ["ATTNBENCH_DATA"] = str(DISK / "cache")
        return sum(try_case(name, rooms) for name in names)


def main() -> None:
    """Try the cases."""
    if "--inside" not in sys.argv:
        inside = ["unshare", "-rm", sys.executable, *sys.argv, "--inside"]
        sys.exit(subprocess.run(inside, check=False).returncode)
    words = sys.argv[1:-1]
    step = int(next((word for word in words if word.isdecimal()), 1))
    names = [word for word in words if not word.isdecimal()] or CASES
    sys.exit(try_cases(names, {"pages": range(0, 16000, step), "files": range(900)}) > 0)


if __name__ == "__main__":
    main()
