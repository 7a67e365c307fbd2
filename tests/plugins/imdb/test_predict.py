"""A trained model's answer for a text of one's own."""

import io
import os
import re
import subprocess
import sys

import pytest
import torch
from attnbench.plugins.task.imdb import Imdb, cache
from rich.console import Console

import attnbench
from attnbench.reports import prediction
from attnbench.reports.attention import draw

WIDTHS = ("query_dim", "key_dim", "value_dim")


def test_predict_answers_for_a_text_without_the_data(cli, ran, monkeypatch):
    monkeypatch.setattr(cache, "prepare", None)
    said = cli("predict", "ran", "A wonderful <br />film", "--picture", "words.png")
    assert said.code == 0, said.err
    label, probability = said.out.split()[:2]
    assert label in ("positive", "negative")
    assert 0.5 <= float(probability) <= 1
    assert "▸ a wonderful film" in said.out
    shares = [float(word) for word in said.out.split("if all had the same): ")[1].split()[1::2]]
    assert sum(shares) == pytest.approx(1, abs=0.01)
    assert (ran.parent / "words.png").stat().st_size > 1000


def test_predict_reads_standard_input(cli, ran, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"An awful film.")))
    assert "an awful film ." in cli("predict", "ran").out


def test_a_byte_order_mark_is_no_part_of_the_text(cli, ran, monkeypatch):
    plain = cli("predict", "ran", "An awful film.").out
    assert cli("predict", "ran", "\ufeffAn awful film.").out == plain
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\xef\xbb\xbfAn awful film.")))
    assert cli("predict", "ran").out == plain


@pytest.mark.parametrize(
    "words", [["-1/10, awful"], ["-awful"], ["--awful film"], ["film", "-awful"], ["--", "--awful"]]
)
def test_a_text_may_begin_with_a_minus(cli, ran, words):
    said = cli("predict", "ran", "--picture", "words.png", *words)
    assert said.code == 0, said.err
    assert "- " in said.out and "awful" in said.out
    assert said.err == "words.png: written\n"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["  "], "predict: the text is empty"),
        ([""], "predict: the text is empty"),
        (["caf\udce9"], "predict: the text is not UTF-8 (byte 0xe9 at 3)"),
        (["text", "--pictur=words.png"], "predict: unrecognized arguments: --pictur=words.png"),
        (["text", "--picture", "p.xyz"], "--picture p.xyz: no such format; "),
        (["text", "--picture", "nowhere/p.png"], "nowhere/p.png: No such file or directory"),
    ],
)
def test_what_cannot_be_read_or_written_is_one_line(cli, ran, words, line):
    said = cli("predict", "ran", *words)
    assert said.code == 2
    assert line in said.err and said.err.count("\n") == 1


def test_standard_input_that_is_not_utf_8_is_one_line(cli, ran, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("Un café.".encode("latin1"))))
    said = cli("predict", "ran")
    assert said.code == 2
    assert said.err == (
        "attnbench: predict: the text is not UTF-8 (byte 0xe9 at 6); convert it, as `iconv -f latin1` does\n"
    )


def test_a_picture_without_an_ending_is_a_png(cli, ran):
    assert cli("predict", "ran", "a film", "--picture", "words").err == "words.png: written\n"
    assert (ran.parent / "words.png").read_bytes().startswith(b"\x89PNG")


def test_emoji_are_drawn_without_a_warning(cli, ran):
    said = cli("predict", "ran", "A film 🎬 of the year 映画! " * 5)
    assert (said.code, said.err) == (0, "prediction.png: written\n")
    assert "🎬" in said.out


def test_a_terminal_of_ascii_is_given_what_it_can_print(ran):
    program = (
        "import sys; from attnbench.__main__ import main\n"
        "for words in (['list', 'linear_attention'], ['check', 'dot'], ['predict', 'ran', 'Wonderful \\U0001f3ac']):\n"
        "    sys.argv[1:] = words; assert main() == 0, words"
    )
    settings = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
    command = [sys.executable, "-c", program]
    said = subprocess.run(command, cwd=ran.parent, env=settings, capture_output=True, check=True)
    assert b"wonderful \\U0001f3ac" in said.stdout


def test_a_task_without_texts_says_which_has(cli, ran, monkeypatch):
    monkeypatch.setattr(Imdb, "predict", attnbench.Task.predict)
    said = cli("predict", "ran", "text")
    assert said.code == 2
    assert re.search("task=imdb answers no texts: `evaluate .*` measures it, .*; tasks that answer: .*date, ", said.err)


@pytest.mark.parametrize(
    "text",
    [
        "$a$ <br /> [bold]",
        "\x1b[2J \x00 \u0301 \ufeff",
        "映画 🎬 ﷺ \U000e0041 \ue000",
        "\n\t \r",
        "W" * 10_000,
        "ﷺ" * 100,
        " ".join("Wonderful!" for _ in range(1000)),
    ],
)
@torch.no_grad()
def test_any_text_is_answered_printed_and_drawn(prepare, tmp_path, text):
    task = prepare()
    model = task.model(
        lambda *widths: attnbench.build("attention", "structured", **dict(zip(WIDTHS, widths, strict=True)))
    )
    answer = task.predict(model.eval(), text)
    prediction.show(answer, Console(file=(printed := io.StringIO())))
    assert "\x1b" not in printed.getvalue()
    draw(answer.attention).savefig(tmp_path / "words.png")
    assert answer.label in ("positive", "negative")
    assert answer.attention.weights.sum(-1).allclose(torch.ones(4, 1))
