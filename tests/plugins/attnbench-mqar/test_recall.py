import pytest
import torch

import attnbench


def examples(count, **options):
    return attnbench.build("task", "mqar", **options).data("train")[list(range(count))]


def test_an_example_is_a_function_of_its_index_alone():
    data = attnbench.build("task", "mqar").data("train")
    together, apart = data[[7, 123_456, 3]], data[[123_456]]
    for one, other in zip(together, apart, strict=True):
        assert torch.equal(one[1], other[0])


def test_the_splits_share_no_example():
    task = attnbench.build("task", "mqar")
    rows = [{tuple(row) for row in task.data(split)[list(range(1000))].tokens.tolist()} for split in ("train", "val")]
    assert len(rows[0]) == len(rows[1]) == 1000
    assert not rows[0] & rows[1]


def test_every_question_has_its_answer_behind_the_same_key():
    batch = examples(500)
    assert batch.tokens.shape == (500, 32)
    for tokens, places, values in zip(*(part.tolist() for part in batch), strict=True):
        pairs = dict(zip(tokens[:8:2], tokens[1:8:2], strict=True))
        assert len(pairs) == 4
        assert all(0 < key < 64 <= value < 128 for key, value in pairs.items())
        assert [pairs[tokens[place]] for place in places] == values
        assert all(place >= 8 and place % 2 == 0 for place in places)


def test_questions_prefer_to_come_soon_and_tokens_are_spread_evenly():
    batch = examples(20_000)
    share = torch.bincount((batch.places[:, 0] - 8) // 2, minlength=12) / 20_000
    weight = torch.arange(1, 13) ** -0.99
    assert torch.allclose(share, weight / weight.sum(), atol=0.01)  # the first drawn follows the power law itself
    keys = torch.bincount(batch.tokens[:, 0], minlength=64)[1:64] / 20_000
    assert torch.allclose(keys, torch.full((63,), 1 / 63), atol=0.005)


def test_too_many_pairs_are_refused_in_a_line():
    with pytest.raises(attnbench.UsageError, match="9 pairs and as many questions need length=36 or more, not 32"):
        attnbench.build("task", "mqar", pairs=9)


@pytest.mark.parametrize(("attention", "options"), [("multihead", {"scoring": "scaled_dot"}), ("uniform", {})])
def test_attention_recalls_and_a_mean_does_not(attention, options):
    torch.manual_seed(0)
    torch.set_num_threads(1)
    task = attnbench.build("task", "mqar")

    def make_attention(query_dim, key_dim, value_dim):
        widths = {"query_dim": query_dim, "key_dim": key_dim, "value_dim": value_dim}
        return attnbench.build("attention", attention, **widths, **options)

    model = task.model(make_attention)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    data = task.data("train")
    for step in range(150):
        loss = task.loss(model, data[list(range(128 * step, 128 * (step + 1)))])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    metrics = task.metrics()
    with torch.no_grad():
        task.evaluate(model, task.data("test")[list(range(1000))], metrics)
    accuracy = float(metrics["accuracy"].compute())
    assert accuracy >= 0.99 if attention == "multihead" else accuracy < 0.5
