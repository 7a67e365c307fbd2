"""Whatever a folder, checkpoint, archive, plugin or text holds: success, or one line and exit code 2.

Nothing in it is executed, and nothing is written outside. ATTNBENCH_GENERATED says how many of each kind are generated
(5): `ATTNBENCH_GENERATED=200 pytest tests/test_generated.py` tries a thousand.
"""

import io
import os
import pickle
import random
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from broken_plugins import scoring
from conftest import SMALL
from test_hostile import Payload

COUNT = int(os.environ.get("ATTNBENCH_GENERATED", "5"))
VALUES = (
    None, True, "", " ", "x", "null", "nan", "../../outside", "/outside", "~/x", "\0", b"\xff",
    "é\u202e", "${oc.env:HOME}", "${seed}", "???", "a" * 5000, [], {}, [[]], [None], ["x"], {"x": 1}, {"name": "soft"},
    {"_target_": "os.mkdir", "path": "outside/executed"}, {1: 2}, -1, 0, 1, 2, 3, 17, 0.5, -0.5, float("nan"),
    float("inf"), 1e308, 2**31, 2**63, 10**400, "1e3", "0x10", "1_000", "soft", "date", "additive", "imdb",
)  # fmt: skip
TEXTS = (
    "", "\0", "[", "{", "a: [", "- a\n- b", "a: &x [*x]", "seed: 0",
    "!!python/object/apply:os.mkdir [outside/executed]",
    "a: !!python/name:os.mkdir", "seed: 0\nseed: 1", "\ufeffseed: 0", "--- a\n--- b", "a: b: c", "\t- a", "'",
    "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]", "[" * 2000, "{" * 2000, "? " * 2000, "%YAML 9.9\n---\na: 1",
)  # fmt: skip


@pytest.fixture
def inside(ran, tmp_path, monkeypatch) -> Path:
    """A folder to stand in, with a run folder, beside one that nothing may be written to."""
    (tmp_path / "outside").mkdir()
    inside = tmp_path / "inside"
    inside.mkdir()
    shutil.copytree(ran, inside / "honest")
    (inside / "outside").symlink_to(tmp_path / "outside")
    monkeypatch.setattr("tempfile.tempdir", str(inside))
    return inside


@pytest.fixture
def tried(cli, inside, tmp_path, monkeypatch):
    """Call a command in `inside`, and judge how it ends."""
    monkeypatch.chdir(inside)

    def call(case: str, *words: str) -> None:
        said = cli(*words)
        assert said.code in (0, 2), f"{case}: {words}: {said}"
        assert "Traceback" not in said.out + said.err, f"{case}: {words}: {said.err}"
        if said.code == 2:
            ours = [line for line in said.err.splitlines() if line.startswith("attnbench: ")]
            assert len(ours) == 1, f"{case}: {words}: {said.err}"
            assert said.err.splitlines()[-1] == ours[0], f"{case}: {words}: {said.err}"
        assert sorted(path.name for path in tmp_path.iterdir()) == ["inside", "outside"], case
        assert not list((tmp_path / "outside").iterdir()), case

    return call


def generators(kind: str) -> Iterator[tuple[str, random.Random]]:
    for number in range(COUNT):
        yield f"{kind} {number}", random.Random(f"{kind} {number}")


def leaves(value, path=()) -> Iterator[tuple]:
    """Walk through the places of a nested value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in inner:
        yield *path, key
        yield from leaves(child, (*path, key))


def spoil(value, rng: random.Random, values=VALUES) -> None:
    """Change one place of a nested value: other, gone, or one more."""
    *above, last = rng.choice(list(leaves(value)))
    for key in above:
        value = value[key]
    how = rng.choice(("other", "other", "other", "gone", "more"))
    if how == "other":
        value[last] = rng.choice(values)
    elif how == "gone":
        del value[last]
    elif isinstance(value, dict):
        value[rng.choice(("x", "name", "_target_", "defaults", "", "a.b"))] = rng.choice(values)


def garble(data: bytes, rng: random.Random) -> bytes:
    """Cut a file, or change some of its bytes."""
    if rng.random() < 0.4:
        return data[: rng.randrange(len(data))]
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 10, 1000))):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def test_a_run_folders_texts(tried, inside):
    for case, rng in generators("config"):
        theirs = inside / "theirs"
        shutil.rmtree(theirs, ignore_errors=True)
        shutil.copytree(inside / "honest", theirs)
        path = theirs / rng.choice(("config.yaml", "config.yaml", "result.json"))
        how = rng.choice(("value", "value", "value", "text", "bytes"))
        if how == "value":
            values = yaml.safe_load(path.read_text())
            for _ in range(rng.choice((1, 1, 2))):
                spoil(values, rng)
            path.write_text(yaml.dump(values))
        elif how == "text":
            path.write_text(rng.choice(TEXTS))
        else:
            path.write_bytes(garble(path.read_bytes(), rng))
        tried(case, *rng.choice((
            ("evaluate", "theirs"), ("evaluate", "theirs", "task.lines=500"), ("resume=theirs", "trainer.max_steps=7"),
            ("predict", "theirs", "May 5, 1999"), ("compare", "theirs"), ("compare", "theirs", "--json"),
        )))  # fmt: skip


def test_checkpoints(tried, inside):
    for case, rng in generators("checkpoint"):
        theirs = inside / "theirs"
        shutil.rmtree(theirs, ignore_errors=True)
        shutil.copytree(inside / "honest", theirs)
        path = theirs / "checkpoints" / rng.choice(("best.ckpt", "last.ckpt"))
        how = rng.choice(("value", "value", "bytes", "payload", "other"))
        if how == "value":
            saved = torch.load(path, weights_only=True)
            spoil(saved, rng, [v for v in VALUES if not isinstance(v, bytes)])
            torch.save(saved, path)
        elif how == "bytes":
            path.write_bytes(garble(path.read_bytes(), rng))
        elif how == "payload":
            saved = torch.load(path, weights_only=True)
            *above, last = rng.choice(list(leaves(saved)))
            place = saved
            for key in above:
                place = place[key]
            place[last] = Payload(Path("outside/executed"))
            torch.save(saved, path) if rng.random() < 0.5 else path.write_bytes(pickle.dumps(saved["callbacks"]))
        else:
            torch.save(rng.choice(VALUES[:5]), path)
        tried(case, *rng.choice((("evaluate", "theirs"), ("resume=theirs", "trainer.max_steps=7"))))


def test_archives(tried, inside):
    names = (
        "a.txt",
        "../outside/a.txt",
        "/outside/a.txt",
        "aclImdb/train/pos/0_9.txt",
        "aclImdb/test/neg/1_2.txt",
        "\n.txt",
    )
    for case, rng in generators("archive"):
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz") as archive:
            for _ in range(rng.randrange(6)):
                member = tarfile.TarInfo(rng.choice(names))
                member.type = rng.choice((tarfile.REGTYPE,) * 5 + (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE))
                member.linkname = rng.choice(("/etc/passwd", "../outside/a.txt", "a.txt"))
                content = rng.choice((b"", b"\xff\xfe", b"\0" * 900, b"a good film " * 200))
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        data = packed.getvalue()
        (inside / "theirs.tar.gz").write_bytes(data if rng.random() < 0.5 else garble(data, rng))
        task = rng.choice(
            (("task=imdb", "task.archive=theirs.tar.gz"), ("task=language_model", "task.file=theirs.tar.gz"))
        )
        shutil.rmtree(inside / "ran", ignore_errors=True)
        tried(case, *task, "trainer.max_steps=1", "trainer.images=0", "hydra.run.dir=ran")


PLUGINS = (
    "raise {}", "1 / 0", "import {}", "def f(:", "\tx", "import sys; sys.exit(3)",
    "class A(BaseException): pass\nraise A",
    "import sys; sys.setrecursionlimit(10**4)\ndef f(): f()\nf()", "raise Exception('a\\nb\\n')", "raise ValueError",
    "register_scoring = 3", "x = '\\ud800'; raise Exception(x)", "from attnbench import {}", "raise RuntimeError({!r})",
)  # fmt: skip


def test_plugins(tried, inside):
    names = ("BaseException", "GeneratorExit", "StopIteration", "MemoryError", "OSError", "x.y", "Attention2", "é")
    honest = scoring("mine", "width: int = 3")
    for case, rng in generators("plugin"):
        text = "import attnbench\n" + rng.choice(PLUGINS).format(rng.choice(names)) + "\n"
        if rng.random() < 0.5:
            cut = rng.randrange(len(honest))
            text = (
                honest[:cut]
                + rng.choice(("", ")", "\0", "x", "None", "\n", "'", "query_dim"))
                + honest[cut + rng.randrange(9) :]
            )
        (inside / f"theirs{case.rpartition(' ')[2]}.py").write_text(text, errors="surrogatepass")
        tried(case, "check", f"theirs{case.rpartition(' ')[2]}.py", "--law", "shape")


def test_texts(tried, inside):
    alphabet = "aZ09,/- \n\t\0\x1b\x7f[]$\\é\u202e\u200b\U0001f600\udcff%{}'\""
    for case, rng in generators("text"):
        text = "".join(rng.choices(alphabet, k=rng.choice((0, 1, 5, 40, 3000)))).replace("\0", rng.choice(("", "x")))
        tried(
            case, "predict", "honest", *rng.choice(((text,), ("--", text), (text, text), ("--picture", "p.svg", text)))
        )


def test_words(tried, inside):
    keys = (
        "seed", "task", "task.lines", "task.file", "trainer", "trainer.max_steps", "attention", "scoring", "x", "",
        "+x", "trainer.gradient_clip", "optimizer.lr", "~task", "hydra.run.dir", "attention.x", "task@x", "resume",
        "experiment",
    )  # fmt: skip
    for case, rng in generators("word"):
        words = []
        for _ in range(rng.choice((1, 1, 2))):
            value = str(rng.choice(VALUES)).replace("\0", "")[:60]
            words.append(rng.choice(keys) + rng.choice(("=", "=", "=", "", "==")) + value)
        shutil.rmtree(inside / "ran", ignore_errors=True)
        tried(case, *SMALL, "trainer.max_steps=1", "trainer.images=0", *words, "hydra.run.dir=ran")
