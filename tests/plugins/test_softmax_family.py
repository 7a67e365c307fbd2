"""Forgetting, differential, stick-breaking and PaTH attention: worked numbers, and each equation written anew."""

import math

import pytest
import torch

import attnbench


def module(name, width=8, scoring="scaled_dot", **options):
    torch.manual_seed(0)
    given = {"query_dim": width, "key_dim": width, "value_dim": width, **options}
    return attnbench.build("attention", name, **given, **({} if name == "path" else {"scoring": scoring})).double()


def heads(linear, x, count):
    return linear(x).unflatten(-1, (count, -1)).transpose(1, 2)


def weights_of(attention, length, scores):
    """Weights of one head whose scores are these: [Q, K]."""

    class Known(torch.nn.Module):
        positional = False

        def forward(self, query, key):
            return torch.as_tensor(scores, dtype=torch.float64).expand(*query.shape[:-2], -1, -1)

    Known.factor = lambda self, query, key: None
    attention.score = Known()
    x = torch.zeros(1, length, 8, dtype=torch.float64)
    return attention(x, x, x, causal=True)[1][0, 0]


def test_a_forget_gate_of_a_half_halves_each_step_back():
    # keys are zero and so is b: f = 1/2, and equal scores fade by 1/2 a step: 1/7, 2/7, 4/7
    weights = weights_of(module("forgetting", num_heads=1), 3, torch.zeros(3, 3))

    torch.testing.assert_close(weights[2], torch.tensor([1, 2, 4], dtype=torch.float64) / 7)
    torch.testing.assert_close(weights[1], torch.tensor([1, 2, 0], dtype=torch.float64) / 3)


def test_forgetting_is_softmax_with_the_sum_of_log_gates_between():
    fox, x = module("forgetting", num_heads=2), torch.randn(2, 6, 8, dtype=torch.float64)
    log_f = torch.nn.functional.logsigmoid(fox.f_proj(x))
    q, k = heads(fox.q_proj, x, 2), heads(fox.k_proj, x, 2)
    weights = fox(x, x, x, causal=True)[1]

    for i in range(6):
        faded = [log_f[:, j + 1 : i + 1].sum(dim=1) for j in range(i + 1)]  # [B, H] each
        scores = (q[:, :, i : i + 1] @ k[:, :, : i + 1].mT / 2).squeeze(2) + torch.stack(faded, dim=-1)
        torch.testing.assert_close(weights[:, :, i, : i + 1], scores.softmax(dim=-1))


def test_the_differential_map_is_one_softmax_less_a_share_of_another():
    diff, x = module("differential", num_heads=2), torch.randn(2, 5, 8, dtype=torch.float64)
    q, k = heads(diff.q_proj, x, 4), heads(diff.k_proj, x, 4)
    maps = (q @ k.mT / math.sqrt(2)).softmax(dim=-1)
    q1, k1, q2, k2 = diff.lambdas.detach()
    share = math.exp(q1 @ k1) - math.exp(q2 @ k2) + 0.8
    context, weights = diff(x, x, x)
    looked = weights @ heads(diff.v_proj, x, 2)
    normed = 0.2 * looked / (looked.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt()

    torch.testing.assert_close(weights, maps[:, ::2] - share * maps[:, 1::2])
    torch.testing.assert_close(context, diff.out_proj(normed.transpose(1, 2).flatten(2)))


def test_a_stick_is_broken_from_the_last_key_back():
    # β = 1/2, 1/4, 1/2 of the keys 0, 1, 2: the last takes 1/2, the one before 1/4 of 1/2, the first 1/2 of 3/8
    scores = torch.tensor([0.0, -math.log(3), 0.0]).expand(3, 3)
    weights = weights_of(module("stick_breaking", num_heads=1), 3, scores)

    torch.testing.assert_close(weights[2], torch.tensor([3 / 16, 1 / 8, 1 / 2], dtype=torch.float64))
    torch.testing.assert_close(weights[1], torch.tensor([3 / 8, 1 / 4, 0], dtype=torch.float64))


@pytest.mark.parametrize("length", [1, 5, 31, 32, 33, 65, 100])
@pytest.mark.parametrize("causal", [True, False])
def test_path_multiplies_a_map_for_every_token_between(length, causal):
    path, x = module("path", num_heads=2), torch.randn(2, length, 8, dtype=torch.float64)
    q, k, w = (heads(p, x, 2) for p in (path.q_proj, path.k_proj, path.w_proj))
    w = w / w.norm(dim=-1, keepdim=True)
    beta = 2 * torch.sigmoid(path.beta_proj(x)).mT
    maps = torch.eye(4, dtype=torch.float64) - beta[..., None, None] * w.unsqueeze(-1) * w.unsqueeze(-2)
    scores = torch.full((2, 2, length, length), -math.inf, dtype=torch.float64)
    for i in range(length):
        last = i if causal else length - 1
        turned = q[:, :, i]
        for j in range(last, -1, -1):
            scores[:, :, i, j] = (turned * k[:, :, j]).sum(dim=-1) / 2
            turned = (maps[:, :, j] @ turned.unsqueeze(-1)).squeeze(-1)

    torch.testing.assert_close(path(x, x, x, causal=causal)[1], scores.softmax(dim=-1))


def test_path_flips_a_coordinate_at_each_token_whose_beta_is_two():
    # w = e1 and β = 2 reflect e1: score of key e1 by query e1 is +1, -1, +1 by how many tokens lie between
    path = module("path", num_heads=1)
    with torch.no_grad():
        for layer in (path.q_proj, path.k_proj, path.w_proj):
            layer.weight.zero_()
            layer.weight[0, 0] = 1.0
        path.beta_proj.weight.zero_()
        path.beta_proj.bias.fill_(50.0)
    x = torch.zeros(1, 3, 8, dtype=torch.float64)
    x[..., 0] = 1.0
    expected = torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64) / math.sqrt(8)

    torch.testing.assert_close(path(x, x, x, causal=True)[1][0, 0, 2], expected.softmax(dim=-1))


@pytest.mark.parametrize("name", ["forgetting", "differential", "stick_breaking", "path"])
def test_a_step_at_a_time_is_all_at_once(name):
    attention, x, state = module(name), torch.randn(2, 40, 8, dtype=torch.float64), None
    together = attention(x, x, x, causal=True, need_weights=False)[0]

    for t in range(40):
        token = x[:, t : t + 1]
        context, state = attention.step(token, token, token, state)
        torch.testing.assert_close(context, together[:, t : t + 1])
        assert sum(part[0].numel() for part in state) == attention.state_size(t + 1)
