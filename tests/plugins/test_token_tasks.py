"""The generators of the next-token tasks against their definitions, in plain Python, sequence by sequence."""

import itertools
import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import attnbench
from attnbench import Draws

INDICES = st.lists(st.integers(0, 2**30), min_size=1, max_size=4, unique=True)
FEW = settings(max_examples=25, deadline=None)


def sequences(name, indices, **options):
    """The task, and for each sequence its labels, {place: label to be written} and {place: where that stands}."""
    task = attnbench.build("task", name, **options)
    made = task.generate(Draws(0, indices))
    for tokens, targets, scored, truth in zip(
        made.tokens, made.targets, made.scored, made.scored if made.truth is None else made.truth, strict=True
    ):
        places = scored.nonzero().flatten().tolist()
        labels = [task.label(token) for token in tokens.tolist()]
        answers = {t: task.label(int(targets[t])) for t in places}
        yield task, labels, answers, None if made.truth is None else {t: int(truth[t]) for t in places}


@FEW
@given(
    INDICES,
    st.integers(1, 8),
    st.integers(0, 3),
    st.sampled_from(["interleaved", "stacked"]),
    st.sampled_from([0.0, 0.5]),
)
def test_recall_asks_each_key_once_for_the_value_it_was_given_last(indices, pairs, updates, layout, noise):
    options = {"pairs": pairs, "updates": min(updates, pairs), "layout": layout, "noise": noise, "vocabulary": 20}
    for task, labels, answers, truth in sequences("recall", indices, length=48, **options):
        assigned, place = {}, 0
        for _ in range(pairs + task.updates):
            if layout == "stacked":
                key, value = labels[place].replace("v", " v").split()
                assigned[key] = (value, place)
                place += 1
            else:
                assigned[labels[place]] = (labels[place + 1], place + 1)
                place += 2
        assert len(labels) == 48
        assert len(assigned) == pairs
        assert min(answers) >= place
        assert sorted(labels[t] for t in answers) == sorted(assigned)
        assert {t: assigned[labels[t]] for t in answers} == {t: (answers[t], truth[t]) for t in answers}
        if not noise:
            assert all(labels[t] == "." for t in range(place, 48) if t not in answers)


def test_recall_asks_soon_rather_than_late():
    # slot i with a probability that falls as i^-0.99: of 12 slots for one key, the first has 0.32
    task = attnbench.build("task", "recall", pairs=1, length=26)
    asked = task.generate(Draws(0, range(4_000))).scored.nonzero()[:, 1]
    shares = [i**-0.99 for i in range(1, 13)]

    assert float((asked == 2).float().mean()) == pytest.approx(shares[0] / sum(shares), abs=0.03)
    assert set(asked.tolist()) == set(range(2, 26, 2))


@FEW
@given(INDICES, st.integers(1, 30), st.floats(0, 1))
def test_flip_flop_reads_the_bit_written_last(indices, half, ignore):
    for _, labels, answers, truth in sequences("flip_flop", indices, length=2 * half + 1, ignore=ignore):
        written, reads = None, {}
        for t in range(0, len(labels), 2):
            if labels[t] == "w":
                written = t + 1
            elif labels[t] == "r":
                reads[t] = written
                assert t + 1 == len(labels) or labels[t + 1] == labels[written]
        assert (labels[0], labels[-1]) == ("w", "r")
        assert reads == truth
        assert answers == {t: labels[place] for t, place in reads.items()}


def test_flip_flop_ignores_as_often_as_it_is_told():
    task = attnbench.build("task", "flip_flop", length=201, ignore=0.8)
    inner = task.generate(Draws(0, range(300))).tokens[:, 2:-1:2]

    assert [float((inner == token).float().mean()) for token in (4, 3, 2)] == pytest.approx([0.8, 0.1, 0.1], abs=0.01)


@pytest.mark.parametrize(("group", "size", "commutes"), [
    ("parity", 2, True), ("z5", 5, True), ("s3", 6, False), ("a5", 60, False), ("s5", 120, False),
])  # fmt: skip
def test_the_tables_are_groups(group, size, commutes):
    table = attnbench.build("task", "state_tracking", group=group).table
    some = range(size) if size < 10 else range(0, size, 7)

    assert table.shape == (size, size)
    assert table[0].tolist() == table[:, 0].tolist() == list(range(size))  # neutral
    assert all(sorted(row) == list(range(size)) for row in table.tolist())  # each has an inverse
    assert all(table[table[a, b], c] == table[a, table[b, c]] for a, b, c in itertools.product(some, repeat=3))
    assert torch.equal(table, table.mT) == commutes


def test_a_table_is_made_where_the_task_is_whatever_was_made_before():
    with torch.device("meta"):
        assert attnbench.build("task", "state_tracking", group="z5").table.is_meta
    assert not attnbench.build("task", "state_tracking", group="z5").table.is_meta


def test_a_product_of_permutations_goes_one_first_and_then_the_other():
    table = attnbench.build("task", "state_tracking", group="s3").table
    elements = list(itertools.permutations(range(3)))
    first, then = elements.index((1, 0, 2)), elements.index((0, 2, 1))

    assert elements[table[first, then]] == (2, 0, 1)  # 0 -> 1 -> 2, 1 -> 0 -> 0, 2 -> 2 -> 1


@FEW
@given(INDICES, st.sampled_from(["parity", "z5", "s3", "a5"]), st.integers(2, 40))
def test_targets_are_the_products_of_all_elements_so_far(indices, group, length):
    for task, labels, answers, _ in sequences("state_tracking", indices, group=group, length=length):
        product = 0
        for t, label in enumerate(labels):
            product = int(task.table[product, int(label)])
            assert answers[t] == str(product)


@FEW
@given(INDICES, st.integers(2, 20), st.integers(1, 4), st.integers(0, 20))
def test_induction_asks_for_what_stood_behind_the_mark(indices, letters, asks, more):
    for _, labels, answers, truth in sequences(
        "induction", indices, letters=letters, asks=asks, length=2 * asks + 2 + more
    ):
        marks = [t for t, label in enumerate(labels) if label == "*"]
        assert len(marks) == asks + 1
        assert list(answers) == marks[1:]
        for before, t in itertools.pairwise(marks):
            assert answers[t] == labels[before + 1] == labels[t + 1] != "*"
            assert truth[t] == before + 1


@FEW
@given(INDICES, st.integers(1, 6), st.integers(0, 6))
def test_copy_writes_the_string_again(indices, shortest, more):
    options = {"shortest": shortest, "longest": shortest + more}
    for task, labels, answers, truth in sequences("copying", indices, **options):
        text = "".join(labels).rstrip(".")
        string, again = text.split("|")
        assert shortest <= len(string) <= shortest + more
        assert string.startswith(again)
        assert len(again) == len(string) - 1
        assert "".join(answers.values()) == string
        assert list(truth.values()) == list(range(len(string)))
        assert task.answer_length(task.encode(f"{string}|")) == len(string)


@FEW
@given(INDICES, st.integers(1, 6), st.integers(0, 9))
def test_selective_copying_skips_the_blanks(indices, longest, blanks):
    for _, labels, answers, truth in sequences("copying", indices, kind="selective", longest=longest, blanks=blanks):
        content, marks = labels[: longest + blanks], labels[longest + blanks :]
        assert marks == ["|"] * longest
        assert list(answers) == list(range(longest + blanks, 2 * longest + blanks))
        assert "".join(answers.values()) == "".join(content).replace(".", "")
        assert [labels[place] for place in truth.values()] == list(answers.values())


@FEW
@given(INDICES, st.integers(1, 3), st.integers(0, 6))
def test_ngram_asks_for_the_letter_behind_the_last_such_ngram(indices, n, more):
    options = {"kind": "ngram", "n": n, "shortest": n + 1, "longest": n + 1 + more}
    for _, labels, answers, truth in sequences("copying", indices, **options):
        string, given_letters = "".join(labels).rstrip(".").split("|")
        ((t, answer),) = answers.items()
        place = string[:-1].rindex(given_letters) + n
        assert len(given_letters) == n
        assert t == len(string) + n
        assert (answer, truth[t]) == (string[place], place)


def test_markov_chains_are_drawn_from_the_flat_dirichlet():
    # one step of a chain of two states: the probability to stay is uniform, so that chains of 3 equal states are 1/3
    task = attnbench.build("task", "markov", states=2, length=2)
    made = task.generate(Draws(0, range(6_000)))
    chains = torch.cat([made.tokens, made.targets[:, -1:]], dim=1)
    stays = (chains[:, 0] == chains[:, 1]) & (chains[:, 1] == chains[:, 2])

    assert float(chains[:, 0].float().mean()) == pytest.approx(0.5, abs=0.02)
    assert float(stays.float().mean()) == pytest.approx(1 / 3, abs=0.02)


@FEW
@given(INDICES, st.integers(2, 5), st.integers(2, 30))
def test_the_best_estimate_counts_transitions(indices, states, length):
    task = attnbench.build("task", "markov", states=states, length=length)
    made = task.generate(Draws(0, indices))
    batch = attnbench.TokenBatch(*made[:3], made.targets, torch.zeros(len(indices), dtype=torch.long))
    logits = torch.zeros(made.tokens.numel(), states, dtype=torch.float64)
    excess = task.measure(logits, batch)["excess"].view(made.tokens.shape)

    for b, t in itertools.product(range(len(indices)), range(length)):
        chain = [*made.tokens[b].tolist(), int(made.targets[b, -1])]
        pairs, single = Counter(itertools.pairwise(chain[: t + 1])), Counter(chain[:t])
        best = (pairs[chain[t], chain[t + 1]] + 1) / (single[chain[t]] + states)
        assert excess[b, t] == pytest.approx(math.log(states) + math.log(best))


def test_the_best_estimate_is_the_posterior_mean_by_enumeration():
    # two states, after a a b a: rows uniform on a fine grid, weighed by the likelihood of what was seen
    grid = [(i + 0.5) / 2_000 for i in range(2_000)]
    likelihood = [p * (1 - p) for p in grid]  # of a -> a with p, then a -> b; b -> a tells nothing of row a
    posterior = sum(p * w for p, w in zip(grid, likelihood, strict=True)) / sum(likelihood)

    assert posterior == pytest.approx((1 + 1) / (2 + 2), abs=1e-6)


TASKS = ["recall", "flip_flop", "state_tracking", "induction", "copying", "markov"]


@pytest.mark.parametrize("name", TASKS)
def test_a_batch_is_the_same_whether_drawn_in_a_block_or_alone(name):
    task = attnbench.build("task", name)
    task.prepare()
    data = task.data("train")
    for indices in (range(64), range(64, 128), range(1000, 1064), range(2048, 2112), [5, 3, 4000], range(60, 70)):
        batch, alone = data[list(indices)], task.generate(Draws(task.seed, list(indices), stream=0))
        for field in ("tokens", "targets", "scored"):
            assert torch.equal(getattr(batch, field), getattr(alone, field)), (indices, field)


@pytest.mark.parametrize("name", TASKS)
def test_training_data_go_by_the_runs_seed_and_evaluation_data_do_not(name):
    one, other = attnbench.build("task", name), attnbench.build("task", name)
    other.seed = 1

    assert not torch.equal(one.data("train")[[0, 1]].tokens, other.data("train")[[0, 1]].tokens)
    for split in ("val", "test"):
        assert torch.equal(one.data(split)[[0, 5]].tokens, other.data(split)[[0, 5]].tokens)


@pytest.mark.parametrize(("name", "options", "word"), [
    ("recall", {"pairs": 20}, "length from|even length from 80"), ("recall", {"length": 33}, "even length"),
    ("recall", {"vocabulary": 10}, "vocabulary=18"), ("recall", {"updates": 9}, "updates"),
    ("recall", {"noise": 1.5}, "noise"),
    ("flip_flop", {"length": 64}, "try 65"), ("flip_flop", {"ignore": 2.0}, "ignore"),
    ("state_tracking", {"length": 1}, "length"), ("state_tracking", {"group": "z7"}, "z5"),
    ("induction", {"length": 5}, "length=6"), ("induction", {"letters": 1}, "letters"),
    ("copying", {"shortest": 9, "longest": 3}, "shortest"), ("copying", {"kind": "ngram", "n": 5}, "n is"),
    ("copying", {"kind": "selective", "blanks": -1}, "blanks"), ("markov", {"states": 1}, "states"),
])  # fmt: skip
def test_what_does_not_fit_is_refused_in_a_line_that_names_it(name, options, word):
    with pytest.raises(attnbench.UsageError, match=word) as refused:
        attnbench.build("task", name, **options)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("name", "text", "typed"), [
    ("recall", "k3 v40 . k3", [3, 40, 0, 3]), ("flip_flop", "w1 i0 r", [2, 1, 4, 0, 3]),
    ("state_tracking", "1 0 1", [1, 0, 1]), ("induction", "c * f", [2, 16, 5]), ("copying", "cab|", [2, 0, 1, 27]),
    ("markov", "abba", [0, 1, 1, 0]),
])  # fmt: skip
def test_a_sequence_can_be_typed(name, text, typed):
    task = attnbench.build("task", name)

    assert task.encode(text) == typed
    with pytest.raises(attnbench.UsageError, match="!"):
        task.encode("!")


def test_the_test_is_drawn_over_what_its_slices_vary():
    task = attnbench.build("task", "recall")
    values = {name: torch.tensor(0.5) for name in ("accuracy", "accuracy_pairs4", "accuracy_pairs16")}
    figures = task.figures({**values, "accuracy_longer": torch.empty(0)})  # of a run cut short

    assert list(figures) == ["accuracy_over_pairs"]
    curve = figures["accuracy_over_pairs"].axes[0].lines[-1]
    assert curve.get_xdata().tolist() == [4, 8, 16]
    assert list(task.figures({**values, "accuracy_longer": torch.tensor(0.1)})) == [
        "accuracy_over_pairs",
        "accuracy_over_length",
    ]


def test_markov_draws_what_uniform_and_unigram_leave():
    task = attnbench.build("task", "markov")
    lines = task.lines()

    assert list(lines) == ["uniform", "unigram", "bigram"]
    assert all(u > g > b == 0 for u, g, b in zip(*lines.values(), strict=True))
