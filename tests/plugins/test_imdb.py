"""task=imdb, on the made-up reviews of tests/reviews.py; and the data set's own counts where it is at hand."""

import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import reviews
import torch
from attnbench.plugins.task import _imdb_data as data
from attnbench.plugins.task import imdb
from attnbench.plugins.task.imdb import Host, Imdb, Reviews
from hypothesis import given
from hypothesis import strategies as st

import attnbench
from attnbench import UsageError
from attnbench.__main__ import main
from attnbench.reports.alignment import measure

LITTLE = ("trainer.max_steps=6", "trainer.val_every=3", "trainer.batch_size=16", "task.embed_dim=8", "trainer.images=2")


@pytest.fixture
def official():
    archive = os.environ.get("ATTNBENCH_IMDB_ARCHIVE")
    if not archive:
        pytest.skip("ATTNBENCH_IMDB_ARCHIVE does not name the data set's archive")
    return Path(archive)


@pytest.fixture(scope="module")
def read(small_reviews):
    return data.read_archive(small_reviews, "task.archive")


def make_attention(name="multihead", scoring="additive", **options):
    def make(query_dim, key_dim, value_dim):
        widths = {"query_dim": query_dim, "key_dim": key_dim, "value_dim": value_dim}
        return attnbench.build("attention", name, scoring=scoring, **widths, **options)

    return make


def prepared(**options):
    task = Imdb(embed_dim=8, **options)
    task.prepare()
    return task


# The files


def test_an_archive_is_read_whole(read):
    assert {split: Counter(r.label for r in part) for split, part in read.items()} == {
        "train": {0: 40, 1: 40}, "test": {0: 40, 1: 40},
    }  # fmt: skip
    assert "wonderful" in read["train"][-1].text or "superb" in read["train"][-1].text


def test_an_extracted_folder_gives_the_same_reviews(read, small_reviews, tmp_path):
    with tarfile.open(small_reviews) as archive:
        archive.extractall(tmp_path, filter="data")
    assert data.read_folder(tmp_path / "aclImdb") == read


@pytest.mark.parametrize("name", ["../outside.txt", "/etc/outside.txt", "aclImdb/train/../../../x.txt"])
def test_a_member_outside_the_folder_is_refused(tmp_path, name):
    outside = tarfile.TarInfo(name)
    outside.size = 1
    archive = reviews.write(tmp_path / "hostile.tar.gz", outside)
    with pytest.raises(UsageError, match=f"its member '{re.escape(name)}' lies outside the folder"):
        data.read_archive(archive, "task.archive")
    assert list(tmp_path.iterdir()) == [archive]


def test_a_link_in_place_of_a_review_is_refused(tmp_path):
    link = tarfile.TarInfo("aclImdb/train/pos/7_9.txt")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    with pytest.raises(UsageError, match="is a link, not a review"):
        data.read_archive(reviews.write(tmp_path / "hostile.tar.gz", link), "task.archive")


def test_a_truncated_archive_is_one_line_that_says_what_to_do(small_reviews, tmp_path):
    cut = tmp_path / "cut.tar.gz"
    cut.write_bytes(small_reviews.read_bytes()[:3000])
    with pytest.raises(UsageError, match=r"cut\.tar\.gz: truncated or altered .*task\.archive=PATH"):
        data.read_archive(cut, "task.archive")


def test_counts_that_are_not_the_data_sets_are_said(tmp_path):
    archive = reviews.write(tmp_path / "few.tar.gz", leave_out="aclImdb/test/pos/1")
    with pytest.raises(UsageError, match="expected 40 reviews of each split and label, found 40 train/neg, 40 train/p"):
        data.read_archive(archive, "task.archive")


def test_reviews_without_their_films_are_said(tmp_path):
    archive = reviews.write(tmp_path / "few.tar.gz", leave_out="aclImdb/train/urls_pos")
    with pytest.raises(UsageError, match=r"train/urls_pos\.txt names no film for review 0"):
        data.read_archive(archive, "task.archive")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["task.archive=nowhere.tar.gz"], "task.archive=nowhere.tar.gz: No such file or directory"),
        (["task.folder=nowhere"], "task.folder=nowhere: No such file or directory"),
        (["task.archive=a", "task.folder=b"], "archive= and folder= are two ways"),
        (["task.min_counts=[0]"], "min_counts=[0]"),
        (["task.masked=false"], "masked=false, which attends to padding"),
        (["task.dropout=1.5"], "dropout is at least 0 and less than 1, not 1.5"),
        (["task.row_dropout=1"], "row_dropout is at least 0 and less than 1, not 1.0"),
        (["task.row_dropout=-0.5"], "row_dropout is at least 0 and less than 1, not -0.5"),
        (["task.embed_scale=-1"], "embed_scale is greater than 0, not -1.0"),
        (["task.pooling=max"], "task.pooling: Invalid value 'max', expected one of [slot, mean, attention]"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_a_user_gets_wrong_is_one_line(cli, arguments, line):
    said = cli("task=imdb", *arguments)
    assert said.code == 2
    assert line in said.err
    assert said.err.count("\n") == 1


def offline(url, **_):
    raise OSError("no network")


def altered(url, **_):
    raise ValueError("SHA256 hash of downloaded file does not match")


@pytest.mark.parametrize(
    ("failing", "line"),
    [
        (offline, "cannot be downloaded .*task.archive=PATH"),
        (altered, "by its checksum this is not the data set; start again"),
    ],
)
def test_a_download_that_fails_is_one_line_that_says_what_to_do(monkeypatch, tmp_path, failing, line):
    monkeypatch.undo()  # the fixture's archive
    import pooch

    monkeypatch.setattr(pooch, "retrieve", lambda url, *_, **__: failing(url))
    with pytest.raises(UsageError, match=line):
        FETCH(tmp_path)


FETCH = data.fetch  # the real one: fixtures replace it


def test_an_archive_is_downloaded_once_and_anew_where_it_came_cut_or_altered(monkeypatch, small_reviews, tmp_path):
    monkeypatch.undo()  # the fixture's archive
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
    monkeypatch.setattr(data, "URL", f"http://127.0.0.1:{server.server_port}/aclImdb_v1.tar.gz")
    monkeypatch.setattr(data, "SHA256", hashlib.sha256(whole).hexdigest())
    try:
        for line in ("cannot be downloaded .*; start again", "by its checksum this is not the data set; start again"):
            with pytest.raises(UsageError, match=line):
                FETCH(tmp_path)
            assert not list(tmp_path.iterdir())
        for _ in range(2):
            assert FETCH(tmp_path).read_bytes() == whole
    finally:
        server.shutdown()
        server.server_close()
    assert len(sent) == 3


def test_a_full_disk_is_one_line_that_says_what_to_do(tmp_path):
    line = "No space left on device; set ATTNBENCH_DATA to a folder with"
    with pytest.raises(UsageError, match=line), data.full_disk(tmp_path):
        raise OSError(28, "No space left on device")


# Numbers


def test_text_is_lower_cased_and_split_at_breaks_and_punctuation():
    text = "It's GREAT!<br /><br />Don't miss: 10/10"
    assert data.split_words(text, True) == ["it's", "great", "!", "don't", "miss", ":", "10", "/", "10"]
    assert data.split_words(text, False) == ["it's", "great", "don't", "miss", "10", "10"]


PIECES = ["It's", "GREAT", "<br />", " ", "\n", "'", "10/10", "é_", "...", "\xa0", "İ"]


@given(st.lists(st.lists(st.sampled_from(PIECES)).map("".join)))
def test_numbering_piece_by_piece_finds_the_words_of_the_whole_text(texts):
    words, numbers, starts = data.number_words(texts, punctuation=True)
    assert len(starts) == len(texts) + 1
    for text, begin, end in zip(texts, starts, starts[1:], strict=False):
        assert numbers[begin] == 0
        assert [words[number] for number in numbers[begin + 1 : end]] == data.split_words(text, True)


def test_validation_is_a_tenth_of_both_labels_and_shares_no_film_with_training(read):
    train, val = data.by_film(read["train"])
    assert len(train) + len(val) == 80
    assert Counter(review.label for review in val) == {0: 4, 1: 4}
    assert not {review.film for review in train} & {review.film for review in val}


def test_the_vocabulary_knows_words_of_the_training_reviews_only(read, monkeypatch):
    marked = {**read, "test": [r._replace(text=r.text + " zyzzyva") for r in read["test"]]}
    reading = data.Reading(True, None, (1,), 512, "films")
    assert "zyzzyva" not in data.encode(marked, reading, None).vocabulary.words
    _, val = data.by_film(read["train"])
    film = val[0].film
    marked = {**read, "train": [r._replace(text=r.text + " zyzzyva") if r.film == film else r for r in read["train"]]}
    assert "zyzzyva" not in data.encode(marked, reading, None).vocabulary.words


def learned(texts, *min_counts, words=None):
    """Learn from texts of which each is made of words and spaces."""
    known = sorted({word for text in texts for word in text.split()})
    flat = [[-1, *(known.index(word) for word in text.split())] for text in texts]
    starts = np.cumsum([0, *map(len, flat)])[:-1]
    numbers = np.array([number for text in flat for number in text])
    numbers[starts] = 0
    reading = data.Reading(True, words, min_counts, 512, "films")
    return data.Vocabulary.learn(known, numbers, starts, reading)[0], reading


def test_rows_go_to_words_by_frequency_and_ties_by_the_alphabet():
    vocabulary, _ = learned(["b a c", "b a", "b d"], 1)
    assert vocabulary.words == ["b", "a", "c", "d"]
    assert learned(["b a c", "b a", "b d"], 2)[0].words == ["b", "a"]
    assert learned(["b a c", "b a", "b d"], 1, words=4)[0].words == ["b"]


def test_pairs_and_triples_have_rows_where_they_end_by_hand():
    vocabulary, reading = learned(["x a b c", "y a b c"], 1, 2, 2)
    rows = vocabulary.encode("z a b c b", reading)
    words = [data.FIRST_WORD + vocabulary.words.index(word) for word in "abc"]
    assert vocabulary.size == vocabulary.num_words + 2 + 1  # a b, b c; a b c
    ab, bc, abc = vocabulary.num_words, vocabulary.num_words + 1, vocabulary.num_words + 2
    assert rows[:, 0].tolist() == [data.START, data.UNKNOWN, *words, words[1]]
    assert rows[:, 1].tolist() == [0, 0, 0, ab, bc, 0]
    assert rows[:, 2].tolist() == [0, 0, 0, 0, abc, 0]


def test_no_pair_reaches_from_one_review_into_the_next():
    vocabulary, _ = learned(["a b", "a b"], 1, 1)
    rows = vocabulary.rows(np.array([data.START, 3, 4, data.START, 3, 4], np.int32), np.array([0, 3]))
    assert rows[3, 1] == data.PAD
    assert rows[4, 1] == rows[1, 1] != data.PAD  # the start and its first word are a pair
    assert rows[5, 1] == rows[2, 1] != data.PAD


def test_encoding_one_text_gives_what_preparing_gave(read):
    reading = data.Reading(True, None, (1, 2, 2), 12, "films")
    made = data.encode(read, reading, None)
    rows, offsets, _ = made.splits["test"]
    texts = sorted(read["test"], key=lambda review: data._shuffled(review.text))
    for number in (0, 5, 79):
        expected = rows[offsets[number] : offsets[number + 1]]
        assert np.array_equal(made.vocabulary.encode(texts[number].text, reading), expected)
        assert len(expected) <= 12


def test_duplicates_are_counted_across_and_within():
    made = [data.Review(text, 0, "") for text in "aabc"]
    assert data.duplicates({"train": made, "test": [data.Review(t, 1, "") for t in "bcdd"]}) == (2, 1, 1)


def test_the_run_tells_of_duplicates(cli, tmp_path):
    assert cli("task=imdb", *LITTLE, "trainer.images=0", "hydra.run.dir=ran").code == 0
    assert "texts that stand in both official splits: 1" in (tmp_path / "ran" / "run.log").read_text()


# The cache


@pytest.fixture
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("ATTNBENCH_DATA", str(tmp_path / "cache"))
    return tmp_path / "cache" / "imdb"


def test_a_second_start_reads_the_cache_and_gives_the_same(cache, monkeypatch):
    first = prepared()
    monkeypatch.setattr(data, "read_archive", None)
    second = prepared()
    assert torch.equal(first.data("test").rows, second.data("test").rows)
    assert first.vocabulary.digest() == second.vocabulary.digest()


def test_what_shapes_the_arrays_has_a_cache_of_its_own(cache):
    prepared()
    prepared(max_tokens=9)
    prepared(punctuation=False)
    assert len(list(cache.glob("*.npz"))) == 3
    assert prepared(max_tokens=9).data("test").lengths.max() == 9


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_a_damaged_cache_is_made_anew_and_says_so(cache, capsys, damage):
    first = prepared()
    (path,) = cache.glob("*.npz")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes({"flip": bytes(content), "cut": bytes(content[:1000]), "empty": b""}[damage])
    capsys.readouterr()
    second = prepared()
    assert "damaged" in capsys.readouterr().err
    assert torch.equal(first.data("train").rows, second.data("train").rows)


def test_of_two_runs_at_once_one_prepares_and_the_other_waits(cache, small_reviews):
    program = (
        "import sys; from attnbench.registry import Registry; Registry.load();"
        "from attnbench.plugins.task import _imdb_data as d; d.PER_LABEL = int(sys.argv[2]);"
        "d.prepare(d.Reading(True, None, (1,), 512, 'films'), sys.argv[1], None, None)"
    )
    command = [sys.executable, "-c", program, str(small_reviews), str(reviews.PER_LABEL)]
    with data.alone(cache):
        processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
        for process in processes:
            assert "waiting for it" in process.stderr.readline()
    said = "".join(process.communicate()[1] for process in processes)
    assert [process.returncode for process in processes] == [0, 0]
    assert said.count("preparing the reviews") == 1


# The model


def test_padding_a_batch_further_changes_no_logit():
    task = prepared()
    model = task.model(make_attention()).eval()
    batch = task.data("val")[[0, 1, 2, 3]]
    wider = batch._replace(rows=torch.nn.functional.pad(batch.rows, (0, 0, 0, 7)))
    torch.testing.assert_close(model(batch)[0], model(wider)[0])


def test_uniform_attention_pools_to_the_mean_of_the_embeddings():
    task = prepared(min_counts=(1,))
    model = task.model(make_attention("uniform", None)).eval()
    batch = task.data("val")[[0, 1]]
    means = [model.table(batch.rows[i, : batch.lengths[i], 0]).mean(dim=0) for i in range(2)]
    torch.testing.assert_close(model(batch)[0], model.out(torch.stack(means)))


@pytest.mark.parametrize("pooling", ["slot", "mean", "attention"])
@pytest.mark.parametrize("encoder", ["none", "bilstm"])
@pytest.mark.parametrize(
    ("attention", "scoring"),
    [("multihead", "additive"), ("self", None), ("structured", None), ("uniform", None), ("last", None),
     ("sliding_window", "dot"), ("channel", None), ("local", "dot")],
)  # fmt: skip
def test_every_mechanism_fits_the_slot(pooling, encoder, attention, scoring):
    task = prepared(pooling=pooling, encoder=encoder)
    model = task.model(make_attention(attention, scoring))
    batch = task.data("train")[[0, 1, 2]]
    loss = task.loss(model, batch)
    loss.backward()
    assert loss.isfinite()
    maps = task.maps(model.eval(), batch)
    assert len(maps) == (3 if model.attention.has_weights else 0)


def test_the_weights_of_a_review_are_a_distribution_over_its_words():
    task = prepared(pooling="mean")
    model = task.model(make_attention()).eval()
    for drawn in task.maps(model, task.data("val")[[0, 1, 2]]):
        torch.testing.assert_close(drawn.weights.sum(-1), torch.ones(4, len(drawn.rows)))
        assert drawn.weights.shape[-1] == len(drawn.columns)
        assert drawn.columns[0] == "▸"


def test_self_attention_is_drawn_and_measured_by_its_last_tokens_rows(monkeypatch):
    """A window of 0 gives each token itself: no row spreads, though their mean is even."""
    monkeypatch.setattr(imdb, "SHOWN", 3)
    task = prepared(pooling="mean")
    model = task.model(make_attention("sliding_window", "dot", window=0)).eval()
    maps = task.maps(model, task.data("val")[[0, 1, 2]])
    for drawn in maps:
        assert len(drawn.columns) > len(drawn.rows) == 3
        assert drawn.rows == drawn.columns[-3:]
        assert torch.equal(drawn.weights[0], torch.eye(len(drawn.columns))[-3:])
    assert measure(maps)["entropy"] == 0


@torch.no_grad()
def test_a_prediction_is_shaded_by_the_mean_over_all_queries(monkeypatch):
    monkeypatch.setattr(imdb, "SHOWN", 1)
    task = prepared(pooling="mean")
    model = task.model(make_attention("sliding_window", "dot", window=0)).eval()
    looked = task.predict(model, "a film").looked
    torch.testing.assert_close(looked.weights, torch.full((1, 1, 3), 1 / 3))


@pytest.mark.parametrize("options", [{}, {"masked": False, "min_counts": (1,), "max_tokens": 64}])
def test_a_sample_of_text_is_the_end_of_its_review_without_the_padding(monkeypatch, options):
    monkeypatch.setattr(imdb, "SHOWN", 3)
    task = prepared(**options)
    batch = task.data("val")[[0, 1, 2, 3]]
    assert (batch.rows[:, :, 0] == data.PAD).any()
    words = [[task.vocabulary.words[row - 3] if row > 2 else "?" for row in rows[:, 0] if row] for rows in batch.rows]
    ends = [text.split(": … ")[1] for text in task.texts(task.model(make_attention()).eval(), batch)]
    assert ends == [" ".join(row[-3:]) for row in words]


def test_padding_in_front_is_attended_to_and_always_as_wide():
    rows = np.array([[7], [8], [9]], np.int32)
    batch = Reviews(rows, np.array([0, 1, 3]), np.array([0, 1]), 4)[[0, 1]]
    assert batch.rows.squeeze(-1).tolist() == [[0, 0, 0, 7], [0, 0, 8, 9]]


@pytest.mark.parametrize("options", [{}, {"min_counts": (1,)}, {"min_counts": (1,), "masked": False, "max_tokens": 9}])
def test_a_row_that_is_left_out_adds_nothing_and_the_others_make_up_for_it(options):
    torch.manual_seed(0)
    task = prepared(row_dropout=0.75, **options)
    model = task.model(make_attention()).train()
    batch = task.data("val")[[0, 1, 2, 3]]
    torch.manual_seed(0)
    x = model.embed(batch.rows)
    torch.manual_seed(0)
    kept = torch.rand(batch.rows.shape) < 0.25
    torch.testing.assert_close(x, (4 * kept.unsqueeze(-1) * model.table(batch.rows)).sum(dim=2))


def test_the_seed_programs_model_has_its_parameters():
    def make(query_dim, key_dim, value_dim):
        return attnbench.build("attention", "self", query_dim=query_dim, key_dim=key_dim, value_dim=value_dim)

    host = Host(make, 20_000, 20_000, embed_dim=128, encoder="none", pooling="mean", dropout=0.5, row_dropout=0.0,
                masked=False, embed_scale=0.05)  # fmt: skip
    assert sum(parameter.numel() for parameter in host.parameters()) == 2_609_410


# Runs


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    folder = tmp_path_factory.mktemp("once") / "ran"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["attnbench", "task=imdb", *LITTLE, f"hydra.run.dir={folder}"])
        assert main() == 0
    return folder


@pytest.fixture
def ran(once, tmp_path):
    return Path(shutil.copytree(once, tmp_path / "ran"))


def test_a_run_leaves_curves_pictures_and_the_tests_own(ran):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(ran), size_guidance={"images": 0, "tensors": 0, "scalars": 0})
    read.Reload()
    tags = read.Tags()
    assert {"train/loss", "val/loss", "val/accuracy", "test/accuracy"} <= set(tags["scalars"])
    assert {"attention/0", "attention/1", "test/precision_recall", "test/confusion"} <= set(tags["images"])
    assert "test/confusion" not in tags["scalars"]
    assert len(read.Images("attention/0")) == 2
    assert re.search(
        "(positive|negative) 0", read.Tensors("examples/text_summary")[0].tensor_proto.string_val[0].decode()
    )
    assert json.loads((ran / "result.json").read_text())["metrics"].keys() >= {"test/accuracy", "val/accuracy"}


def test_evaluate_uses_the_runs_vocabulary_on_other_reviews(cli, ran, tmp_path, monkeypatch):
    monkeypatch.setattr(reviews, "WORDS", ["entirely", "other", "words"])
    reviews.write(tmp_path / "other.tar.gz")
    said = cli("evaluate", "ran", "task.archive=other.tar.gz")
    assert said.code == 0, said.err
    assert "test/accuracy" in said.out


def test_a_run_on_made_up_reviews_learns_them(cli, tmp_path):
    said = cli("task=imdb", "task.embed_dim=8", "trainer.max_steps=60", "trainer.batch_size=16", "trainer.images=0",
               "optimizer.lr=0.03", "task.row_dropout=0", "task.min_counts=[2]", "hydra.run.dir=learned")  # fmt: skip
    assert said.code == 0, said.err
    assert json.loads((tmp_path / "learned" / "result.json").read_text())["metrics"]["test/accuracy"] >= 0.9


def test_the_curve_and_its_average_precision_are_exact_where_most_answers_are_sure():
    task, noise = Imdb(), torch.Generator().manual_seed(0)
    label = torch.randint(2, (500,), generator=noise)
    positive = torch.sigmoid(6 * torch.randn(500, generator=noise).double() + 12 * label - 6)
    metrics = {name: metric for name, metric in task.metrics().items() if name != "accuracy"}
    for metric in metrics.values():
        metric.update(positive, label)
    figures = task.figures({name: metric.compute() for name, metric in metrics.items()})
    ranked = label[positive.argsort(descending=True)].double()
    expected = (ranked * ranked.cumsum(0) / torch.arange(1, 501)).sum() / ranked.sum()
    axis = figures["precision_recall"].axes[0]
    assert axis.get_title() == f"average precision {expected:.4f}"
    recall = np.sort(axis.lines[0].get_xdata())
    assert recall[0] == 0 and recall[-1] == 1 and np.diff(recall).max() < 0.01


def test_predict_answers_for_a_text_without_the_data(cli, ran, monkeypatch):
    monkeypatch.setattr(data, "prepare", None)
    said = cli("predict", "ran", "A wonderful <br />film", "--picture", "words.png")
    assert said.code == 0, said.err
    label, probability = said.out.split()[:2]
    assert label in ("positive", "negative")
    assert 0.5 <= float(probability) <= 1
    assert "▸ a wonderful film" in said.out
    shares = [float(word) for word in said.out.split("most weight:")[1].split()[1::2]]
    assert sum(shares) == pytest.approx(1, abs=0.01)
    assert (ran.parent / "words.png").stat().st_size > 1000


def test_predict_reads_standard_input(cli, ran, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("An awful film."))
    assert "an awful film ." in cli("predict", "ran").out


def test_predict_of_nothing_is_one_line(cli, ran):
    said = cli("predict", "ran", "  ")
    assert said.code == 2
    assert "the text is empty" in said.err


def test_a_task_without_texts_says_which_has(cli):
    assert cli("task.lines=600", "trainer.max_steps=2", "trainer.images=0", "hydra.run.dir=dates").code == 0
    said = cli("predict", "dates", "text")
    assert said.code == 2
    assert "task=date answers no texts; a run of task=imdb does" in said.err


def test_the_seed_program_is_validated_on_test_and_says_so(cli, tmp_path):
    said = cli("experiment=imdb_keras", "trainer.max_steps=4", "trainer.val_every=2", "trainer.images=1",
               "task.words=30", "trainer.eval_train=20", "hydra.run.dir=keras")  # fmt: skip
    assert said.code == 0, said.err
    assert "the checkpoint is chosen on the test reviews" in (tmp_path / "keras" / "run.log").read_text()
    metrics = json.loads((tmp_path / "keras" / "result.json").read_text())["metrics"]
    assert metrics["val/accuracy"] == metrics["test/accuracy"]
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(tmp_path / "keras"))
    read.Reload()
    assert [event.step for event in read.Scalars("train/accuracy")] == [2, 4]


def test_the_best_recipe_is_attention_alone_and_chooses_on_films(cli, tmp_path):
    said = cli("experiment=imdb_best", *LITTLE, "hydra.run.dir=best")
    assert said.code == 0, said.err
    result = json.loads((tmp_path / "best" / "result.json").read_text())
    assert (result["attention"], result["scoring"]) == ("structured", None)
    assert "validate_on: films" in (tmp_path / "best" / "config.yaml").read_text()


# The data set itself


def test_the_official_archive_is_prepared_as_published(official, monkeypatch, tmp_path):
    monkeypatch.setattr(data, "PER_LABEL", 12_500)
    monkeypatch.setenv("ATTNBENCH_DATA", str(tmp_path))
    made = data.prepare(data.Reading(True, None, (2,), 512, "films"), str(official), None, None)
    assert {split: len(labels) for split, (_, _, labels) in made.splits.items()} == {
        "train": 22_500, "val": 2_500, "test": 25_000,
    }  # fmt: skip
    assert all(labels.mean() == 0.5 for _, _, labels in made.splits.values())
    assert made.duplicates == (123, 96, 199)
