import datetime
import itertools
import random
from collections import Counter

import pytest
import torch
from attnbench.plugins.task.date import PAD, DateConversion, decode, drawn, written

import attnbench
from attnbench.hosts import Decoded, EncoderDecoder

DAY = datetime.date(1997, 9, 8)


def make_attention(attention="soft", scoring="additive"):
    def make(query_dim, key_dim, value_dim):
        widths = {"query_dim": query_dim, "key_dim": key_dim, "value_dim": value_dim}
        return attnbench.build("attention", attention, scoring=scoring, **widths)

    return make


@pytest.fixture(scope="module")
def task():
    made = DateConversion(lines=2_000)
    made.prepare()
    return made


@pytest.mark.parametrize(
    ("form", "case", "text"),
    [
        ("short", "title", "9/8/97"),
        ("medium", "title", "Sep 8, 1997"),
        ("long", "upper", "SEPTEMBER 8, 1997"),
        ("full", "title", "Monday, September 8, 1997"),
        ("full", "lower", "monday, september 8, 1997"),
    ],
)
def test_a_day_is_written_as_in_the_book(form, case, text):
    assert written(DAY, form, case) == text


def test_two_digit_years_keep_their_zero():
    assert written(datetime.date(2004, 8, 25), "short", "title") == "8/25/04"


def test_the_lines_are_distributed_as_the_books():
    lines = list(itertools.islice(drawn(random.Random(1)), 20_000))
    targets = [target for _, target in lines]
    assert min(targets) >= "1970-01-01"
    assert max(targets) <= "2017-07-24"
    worded = [source for source, _ in lines if "/" not in source]
    cases = Counter("upper" if s.isupper() else "lower" if s.islower() else "title" for s in worded)
    forms = Counter(
        "short" if "/" in s else "full" if s.count(",") == 2 else "other" for s, _ in lines
    )  # medium and long meet in May
    for count, share, total in [
        (forms["short"], 0.25, 20_000),
        (forms["full"], 0.25, 20_000),
        (cases["title"], 0.5, len(worded)),
        (cases["upper"], 0.25, len(worded)),
        (cases["lower"], 0.25, len(worded)),
    ]:
        assert abs(count - share * total) < 4 * (total * share * (1 - share)) ** 0.5  # four standard deviations
    years = Counter(target[:4] for target in targets)
    assert len(years) == 48


def test_no_string_stands_in_two_splits(task):
    strings = {split: {source for source, _ in pairs} for split, pairs in task._pairs().items()}
    for one, other in itertools.combinations(strings, 2):
        assert not strings[one] & strings[other]


def test_by_default_forty_five_thousand_lines_train_and_validate_and_five_thousand_test():
    sizes = {split: len(pairs) for split, pairs in DateConversion()._pairs().items()}
    assert sizes == {"train": 43_000, "val": 2_000, "test": 5_000}


def test_every_form_is_as_frequent_in_test_as_in_train():
    pairs = DateConversion()._pairs()
    shares = {split: sum("/" in source for source, _ in lines) / len(lines) for split, lines in pairs.items()}
    assert shares["test"] == pytest.approx(0.25, abs=0.025)
    assert shares["train"] == pytest.approx(0.25, abs=0.01)


def test_the_same_data_seed_draws_the_same_lines():
    assert DateConversion(lines=100)._pairs() == DateConversion(lines=100)._pairs()
    assert DateConversion(lines=100)._pairs() != DateConversion(lines=100, data_seed=1)._pairs()


def in_the_books_format(pairs):
    return "".join(f"{source:<29}_{target}\n" for source, target in pairs)


def test_a_file_in_the_books_format_is_read(tmp_path):
    pairs = list(itertools.islice(drawn(random.Random(3)), 500))
    (tmp_path / "dates.txt").write_text(in_the_books_format(pairs))
    splits = DateConversion(file=tmp_path / "dates.txt")._pairs()
    assert Counter(itertools.chain(*splits.values())) == Counter(pairs)
    assert len(splits["test"]) == pytest.approx(50, abs=20)


def test_a_byte_order_mark_and_trailing_blanks_are_no_part_of_the_lines(tmp_path):
    (tmp_path / "dates.txt").write_text(f"\ufeff{'9/8/97':<29}_1997-09-08 \r\n{'9/9/97':<29}_1997-09-09\t\n \n\n")
    splits = DateConversion(file=tmp_path / "dates.txt")._pairs()
    assert set(itertools.chain(*splits.values())) == {("9/8/97", "1997-09-08"), ("9/9/97", "1997-09-09")}


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("september 27, 1994 1994-09-27", r"line 2: expected 29 characters, `_`, 10 characters"),
        (f"{'september 27, 1994':<29}_1994-09-2", r"line 2: expected 29 characters"),
        (f"{'september 27, 1994':<29}_1994-13-27", r"line 2: '1994-13-27' is not a date YYYY-MM-DD"),
        (f"{'septembre 27° 1994':<29}_1994-09-27", r"line 2: unknown character '°'"),
        (f"{'':<29}_1994-09-27", r"line 2: the date to convert is empty"),
        (f"{'1/1/70':<29}_1970-W01-4", r"line 2: '1970-W01-4' is not a date YYYY-MM-DD"),
    ],
)
def test_a_malformed_line_is_named(tmp_path, line, complaint):
    (tmp_path / "dates.txt").write_text(in_the_books_format([("9/8/97", "1997-09-08")]) + line + "\n")
    with pytest.raises(attnbench.UsageError, match=complaint):
        DateConversion(file=tmp_path / "dates.txt").prepare()


def test_padding_is_trimmed_to_the_batch(task):
    batch = task.data("train")[list(range(8))]
    assert (batch.source[:, -1] != PAD).any()
    assert batch.target.shape == (8, 10)


def test_what_is_evaluated_is_read_by_length_and_a_step_mixes_all(task):
    assert task.lengths("train") is None
    for split in ("val", "test"):
        lengths = task.lengths(split)
        assert len(lengths) == len(task.data(split))
        assert [len(decode(row).rstrip("·")) for row in task.data(split).source[:20]] == lengths[:20].tolist()


def test_padding_a_source_further_does_not_change_what_is_written(task):
    torch.manual_seed(0)
    model = task.model(make_attention())
    source = task.data("train")[list(range(4))].source
    wider = torch.nn.functional.pad(source, (0, 5))
    narrow, broad = (model.greedy(each, 10, need_weights=True).weights for each in (source, wider))
    torch.testing.assert_close(narrow, broad[..., : source.shape[1]])


def test_greedy_decoding_continues_what_teacher_forcing_would_say(task):
    torch.manual_seed(0)
    model = task.model(make_attention("multihead", "scaled_dot"))
    source = task.data("train")[list(range(4))].source
    decoded = model.greedy(source, 10).tokens
    assert torch.equal(model(source, decoded).argmax(-1), decoded)


def test_exact_match_counts_whole_dates_and_the_other_metric_characters(task):
    class Oracle(type(task.model(make_attention()))):
        def greedy(self, source, length, *, need_weights):
            answer = batch.target.clone()
            answer[0, 0] += 1
            return Decoded(answer, None)

    model = task.model(make_attention())
    model.__class__ = Oracle
    batch = task.data("val")[[0, 1, 2, 3]]
    metrics = task.metrics()
    task.evaluate(model, batch, metrics)
    assert metrics["exact_match"].compute() == 0.75
    assert metrics["character_accuracy"].compute() == pytest.approx(39 / 40)


def test_an_evaluation_reads_a_source_once_for_what_is_written_and_for_the_loss(task):
    model, batch, read = task.model(make_attention()), task.data("val")[[0, 1, 2]], []
    model.encoder.register_forward_hook(lambda *_: read.append(1))
    loss = task.evaluate(model, batch, task.metrics())
    assert len(read) == 1
    assert torch.equal(loss, task.loss(model, batch))


def test_maps_have_a_label_for_each_row_and_column(task):
    model = task.model(make_attention())
    batch = task.data("val")[[0, 1, 2]]
    for attention_map in task.maps(model, batch):
        assert attention_map.weights.shape == (1, len(attention_map.rows), len(attention_map.columns))
    assert len(task.texts(model, batch)) == 3


def test_a_validation_decodes_each_example_once(monkeypatch, cli):
    decoded = []
    greedy = EncoderDecoder.greedy

    def counted(self, source, *arguments, **options):
        decoded.append(len(source))
        return greedy(self, source, *arguments, **options)

    monkeypatch.setattr(EncoderDecoder, "greedy", counted)
    words = ("task.lines=400", "task.val_share=0.5", "trainer.max_steps=2", "trainer.val_every=1")
    assert cli(*words, "part=tuning").code == 0
    assert sum(decoded) == 2 * 200


def test_shares_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match=r"test_share=0\.9 and val_share=0\.2"):
        DateConversion(test_share=0.9, val_share=0.2)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_a_typed_date_is_answered_with_where_was_looked(task, cell):
    torch.manual_seed(0)
    model = DateConversion(cell=cell).model(make_attention())
    with torch.no_grad():
        answer = task.predict(model, " SATURDAY, FEBRUARY 7, 1970\n")
    assert len(answer.label) == 10
    assert 0 < answer.probability < 1
    assert answer.attention.weights.shape == (1, 10, 26)
    assert "".join(answer.attention.columns) == "SATURDAY, FEBRUARY 7, 1970"


def test_a_character_that_no_date_has_is_refused(task):
    with pytest.raises(attnbench.UsageError, match="predict: unknown character '°'"):
        task.predict(task.model(make_attention()), "7° 1970")
