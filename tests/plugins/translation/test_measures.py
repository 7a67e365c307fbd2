"""The loss over a sample of words, and BLEU."""

import pytest
import sacrebleu
import torch
from attnbench.plugins.task.translation.bleu import Bleu
from attnbench.plugins.task.translation.sampled import sampled_cross_entropy

WRITTEN = ["je n' ai pas d' argent .", "tom est ici .", "le chat dort", ""]
REFERENCES = [
    ["je n' ai pas d' argent .", "je suis sans le sou ."],
    ["tom est là .", "tom est par ici .", "thomas est ici ."],
    ["le chat est en train de dormir .", "le chat dort ."],
    ["oui ."],
]


def data():
    torch.manual_seed(0)
    features, bias = 0.3 * torch.randn(40, 6), 0.3 * torch.randn(30)
    weight = torch.randn(30, 6, requires_grad=True)
    target = torch.randint(5, (40,))
    frequency = torch.full((30,), 1e-3)
    frequency[:5] = 0.2
    return features, target, weight, bias, frequency


def full(features, target, weight, bias):
    return torch.nn.functional.cross_entropy(features @ weight.T + bias, target)


def test_with_all_words_in_the_sample_the_loss_is_that_of_all_words():
    features, target, weight, bias, frequency = data()
    loss = sampled_cross_entropy(features, target, weight, bias, frequency, 2000)
    torch.testing.assert_close(loss, full(features, target, weight, bias))


def test_on_average_a_sample_normalises_as_all_words_do():
    features, target, weight, bias, frequency = data()
    losses = [float(sampled_cross_entropy(features, target, weight.detach(), bias, frequency, 20)) for _ in range(200)]
    assert sum(losses) / 200 == pytest.approx(float(full(features, target, weight.detach(), bias)), abs=0.1)


def test_the_gradient_is_of_the_words_in_the_sample_alone():
    features, target, weight, bias, frequency = data()
    sampled_cross_entropy(features, target, weight, bias, frequency, 3).backward()
    rows = weight.grad.coalesce().indices()
    assert set(target.tolist()) <= set(rows.flatten().tolist())
    assert rows.numel() <= 8


def measured(written, references):
    metric = Bleu()
    metric.update(written, references)
    return metric.compute()


def test_bleu_is_that_of_sacrebleu():
    streams = [[r[i] if i < len(r) else None for r in REFERENCES] for i in range(3)]
    theirs = sacrebleu.corpus_bleu(WRITTEN, streams, tokenize="none", smooth_method="none", force=True)
    assert float(measured(WRITTEN, REFERENCES)) == pytest.approx(theirs.score, abs=1e-3)


def test_bleu_worked_out_by_hand():
    # 4 of 5 words, 3 of 4 pairs, 2 of 3 triples, 1 of 2 fours: (4/5 · 3/4 · 2/3 · 1/2)^(1/4), as long as the reference
    assert float(measured(["a b c d x"], [["a b c d e"]])) == pytest.approx(100 * 0.2**0.25, abs=1e-3)


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_bleu_of_nothing_is_left_out():
    assert Bleu().compute().numel() == 0
