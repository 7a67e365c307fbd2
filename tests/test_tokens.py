"""A generator of tokens makes a whole task."""

import warnings

import pytest
import torch

import attnbench
from attnbench import Draws, Sequences, TokenTask


class Last(TokenTask):
    """Which letter stood `back` places before? Digits 0..7; length is a slice's.

    tokens   3 1 4 1 5
    targets  - 3 1 4 1
    """

    whole_sequences = True
    val_examples = 30
    test_examples = 20

    def __init__(self, *, length: int = 6, back: int = 1, width: int = 16, conv: int = 2, positions: str = "none"):
        if not 0 < back < length:
            raise ValueError(f"back={back} is below length={length}")
        super().__init__(8, width=width, conv=conv, positions=positions)
        self.length, self.back = length, back

    def slices(self):
        return {"longer": {"length": 11}, "further": {"back": 3}}

    def generate(self, draws):
        tokens = draws.integers(8, self.length)
        targets = torch.nn.functional.pad(tokens, (self.back, 0))[:, : self.length]
        scored = torch.arange(self.length).expand_as(tokens) >= self.back
        return Sequences(tokens, targets, scored, (torch.arange(self.length) - self.back).expand_as(tokens))

    def label(self, token):
        return "abcdefgh"[token]

    def encode(self, text):
        return ["abcdefgh".index(letter) for letter in text]


def make(name="multihead", scoring="scaled_dot", **options):
    def make_attention(query_dim, key_dim, value_dim):
        widths = {"query_dim": query_dim, "key_dim": key_dim, "value_dim": value_dim}
        return attnbench.build("attention", name, scoring=scoring, **widths, **options)

    return make_attention


def indices(count, start=0):
    return list(range(start, start + count))


def test_training_data_go_by_the_seed_and_evaluation_data_do_not():
    task, other = Last(), Last()
    other.seed = 1
    assert not torch.equal(task.data("train")[indices(20)].tokens, other.data("train")[indices(20)].tokens)
    for split in ("val", "test"):
        assert torch.equal(task.data(split)[indices(20)].tokens, other.data(split)[indices(20)].tokens)


def test_no_split_or_slice_has_the_random_numbers_of_another():
    task = Last()
    task.slices = lambda: {"same": {}}
    tokens = [task.data(split)[indices(20)].tokens for split in ("train", "val", "test")]
    tokens.append(task.data("test")[indices(20, 20)].tokens)
    assert all(not torch.equal(one, other) for i, one in enumerate(tokens) for other in tokens[:i])


def test_a_batch_may_hold_several_slices_padded_behind():
    data = Last().data("test")
    assert len(data) == 60
    mixed = data[[45, 3, 25, 20, 0]]
    assert mixed.slice.tolist() == [2, 0, 1, 1, 0]
    assert mixed.tokens.shape == (5, 11)
    for row, index in enumerate([45, 3, 25, 20, 0]):
        alone = data[[index]]
        length = alone.tokens.shape[1]
        assert torch.equal(mixed.tokens[row, :length], alone.tokens[0])
        assert torch.equal(mixed.scored[row, :length], alone.scored[0])
        assert not mixed.scored[row, length:].any()
        assert (mixed.truth[row, length:] == -1).all()


class Oracle(torch.nn.Module):
    """Right at the scored places of the first rows only."""

    def __init__(self, batch, wrong_from):
        super().__init__()
        self.batch, self.wrong_from = batch, wrong_from

    def forward(self, tokens, where):
        rows = where.nonzero()[:, 0]
        targets = self.batch.targets[where]
        return torch.nn.functional.one_hot((targets + (rows >= self.wrong_from).long()) % 8, 8).float()


def evaluated(task, batch, wrong_from):
    metrics = task.metrics()
    task.evaluate(Oracle(batch, wrong_from), batch, metrics)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return {name: metric.compute() for name, metric in metrics.items()}


def test_each_slice_has_its_own_accuracy():
    values = evaluated(Last(), Last().data("test")[[0, 1, 20, 21, 40, 41]], wrong_from=3)
    names = ["accuracy", "accuracy_longer", "accuracy_further"]
    assert [float(values[name]) for name in names] == [1.0, 0.5, 0.0]
    assert [float(values[f"sequence_{name}"]) for name in names] == [1.0, 0.5, 0.0]


def test_one_wrong_place_makes_a_whole_sequence_wrong():
    task = Last()
    batch = task.data("val")[indices(4)]

    class Slips(Oracle):
        def forward(self, tokens, where):
            logits = super().forward(tokens, where)
            logits[0] = logits[0].roll(1)
            return logits

    metrics = task.metrics()
    task.evaluate(Slips(batch, 4), batch, metrics)
    assert float(metrics["sequence_accuracy"].compute()) == 0.75
    assert float(metrics["accuracy"].compute()) == pytest.approx(19 / 20)


def test_an_empty_slice_is_left_out_and_not_warned_about():
    values = evaluated(Last(), Last().data("val")[indices(3)], wrong_from=9)
    assert values["accuracy"] == 1.0
    assert values["accuracy_longer"].shape == values["sequence_accuracy_further"].shape == (0,)


def test_the_loss_is_the_mean_over_the_scored_places():
    torch.manual_seed(0)
    task = Last()
    model, batch = task.model(make()), task.data("train")[indices(5)]
    everywhere = model(batch.tokens)
    expected = [-everywhere[i, j].log_softmax(-1)[batch.targets[i, j]] for i, j in batch.scored.nonzero().tolist()]
    torch.testing.assert_close(task.loss(model, batch), torch.stack(expected).mean())


def test_a_map_is_labelled_by_tokens_and_knows_where_the_answer_stands():
    task = Last()
    batch = task.data("val")[indices(2)]
    drawn = task.maps(task.model(make()), batch)[1]
    assert drawn.rows == drawn.columns == ["abcdefgh"[token] for token in batch.tokens[1].tolist()]
    assert drawn.weights.shape == (4, 6, 6)
    assert torch.equal(drawn.mask, torch.ones(6, 6).tril().bool())
    assert torch.equal(drawn.truth, torch.diag(torch.ones(5), -1).bool())


def test_texts_say_what_was_written_and_what_was_right():
    task = Last(length=3)
    batch = task.data("val")[indices(2)]
    first, second = task.texts(Oracle(batch, 1), batch)
    letters = ["abcdefgh"[token] for token in batch.tokens[0].tolist()]
    assert first == f"{' '.join(letters)} → {' '.join(letters[:2])}"
    assert "(right: " in second


def test_a_typed_text_is_answered():
    torch.manual_seed(0)
    task = Last()
    model = task.model(make())
    with torch.no_grad():
        answer = task.predict(model, "abca")
        logits = model(torch.tensor([[0, 1, 2, 0]]))[0, -1]
    assert answer.label == "abcdefgh"[int(logits.argmax())]
    assert answer.probability == pytest.approx(float(logits.softmax(-1).max()))


@pytest.mark.parametrize("attention", ["location_aware"])
def test_what_is_asked_one_query_after_the_other_is_refused_in_a_line(attention):
    with pytest.raises(ValueError, match="a next-token task needs a causal attention, such as attention=multihead"):
        Last().model(make(attention, None))


def test_what_refuses_to_be_causal_is_refused_in_a_line():
    def make_attention(query_dim, key_dim, value_dim):
        module = make("uniform", None)(query_dim, key_dim, value_dim)
        forward = module.forward

        def refuse(*args, causal=False, **options):
            if causal:
                raise ValueError("it looks ahead")
            return forward(*args, **options)

        module.forward = refuse
        return module

    with pytest.raises(ValueError, match=r"needs a causal attention, such as .*: it looks ahead"):
        Last().model(make_attention)


def test_a_slice_that_does_not_fit_is_named():
    task = Last()
    task.slices = lambda: {"far": {"back": 60}}
    with pytest.raises(ValueError, match=r"the slice far \(back=60\) does not fit: back=60 is below length=6"):
        task.model(make())


def test_learned_positions_reach_over_the_longest_slice():
    model = Last(positions="learned").model(make())
    assert model.places.shape == (11, 16)


class Table(TokenTask):
    """Look each token up in a table, which is data."""

    def __init__(self, *, length: int = 6, positions: str = "none"):
        super().__init__(8, positions=positions)
        self.length = length

    def prepare(self):
        self.table = torch.arange(8).roll(1)

    def slices(self):
        return {"longer": {"length": 11}}

    def generate(self, draws):
        tokens = draws.integers(8, self.length)
        return Sequences(tokens, self.table[tokens], torch.ones_like(tokens, dtype=torch.bool))


def test_slices_prepare_their_data_too():
    task = Table(positions="learned")
    task.prepare()
    batch = task.data("test")[[0, task.test_examples]]
    assert batch.slice.tolist() == [0, 1]
    assert torch.equal(batch.targets[batch.scored], (batch.tokens[batch.scored] - 1) % 8)
    assert task.model(make()).places.shape == (11, 32)


def test_a_host_is_built_without_data():
    """As `predict` builds it."""
    assert Table().model(make()).has_weights


def test_attention_without_weights_draws_no_maps(monkeypatch):
    task = Last()
    model = task.model(make())
    monkeypatch.setattr(type(model.blocks[0].attention), "has_weights", False)
    assert task.maps(model, task.data("val")[indices(2)]) == []


def test_it_learns():
    torch.manual_seed(0)
    task = Last(conv=2)
    model = task.model(make())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(60):
        loss = task.loss(model, task.data("train")[indices(64, 64 * step)])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    batch = task.data("test")[indices(20)]
    metrics = task.metrics()
    with torch.no_grad():
        task.evaluate(model, batch, metrics)
    assert float(metrics["accuracy"].compute()) > 0.95


def test_a_draw_is_all_that_a_generator_sees():
    task = Last()
    assert torch.equal(task.generate(Draws(0, [3, 4])).tokens[1], task.generate(Draws(0, [4])).tokens[0])
