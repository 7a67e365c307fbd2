from collections import Counter

import pytest
import torch

import attnbench


def test_every_target_is_a_count():
    batch = attnbench.build("task", "count").data("train")[list(range(200))]
    for tokens, targets in zip(batch.tokens.tolist(), batch.targets.tolist(), strict=True):
        seen = Counter()
        for token, target in zip(tokens[1:], targets[1:], strict=True):
            seen[token] += 1
            assert target == seen[token]
    assert not batch.scored[:, 0].any()
    assert batch.scored[:, 1:].all()


def test_sizes_that_do_not_fit_are_refused_in_a_line():
    with pytest.raises(attnbench.UsageError, match=r"letters=1 is in 2\.\.26, and length=16 at least 2"):
        attnbench.build("task", "count", letters=1)


@pytest.mark.parametrize(("attention", "options"), [("multihead", {"scoring": "scaled_dot"}), ("last", {})])
def test_attention_counts_and_the_present_letter_alone_does_not(attention, options):
    torch.manual_seed(0)
    torch.set_num_threads(1)
    task = attnbench.build("task", "count")

    def make_attention(query_dim, key_dim, value_dim):
        widths = {"query_dim": query_dim, "key_dim": key_dim, "value_dim": value_dim}
        return attnbench.build("attention", attention, **widths, **options)

    model, data = task.model(make_attention), task.data("train")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=300, pct_start=0.1)
    for step in range(300):
        loss = task.loss(model, data[list(range(64 * step, 64 * (step + 1)))])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    metrics = task.metrics()
    with torch.no_grad():
        task.evaluate(model, task.data("test")[list(range(1000))], metrics)
    accuracy = float(metrics["accuracy"].compute())
    assert accuracy > 0.95 if attention == "multihead" else accuracy < 0.5
