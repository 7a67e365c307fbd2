"""Chunked linear attention: against the recurrences step by step, against its mixing matrix, at every boundary."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.overrides import TorchFunctionMode

from attnbench import chunkwise
from attnbench.chunkwise import Mixed, decayed_linear, delta_rule

LENGTHS = (1, 15, 16, 17, 64, 65, 130)
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4}
KINDS = ("linear", "delta")
GATES = ("none", "key", "channel")
Inputs = dict[str, Tensor]


def step_by_step(inputs: Inputs, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The published recurrences, a key at a time: S decays, what k recalls is taken off v (delta), k vᵀ is added."""
    q, k, v = inputs["q"], inputs["k"], inputs["v"]
    S = torch.zeros(*k.shape[:2], k.shape[-1], v.shape[-1], dtype=k.dtype) if state is None else state
    contexts = []
    for t in range(k.shape[2]):
        if "log_decay" in inputs:
            gate = inputs["log_decay"][:, :, t].exp()
            S = S * (gate[..., None, None] if gate.dim() == 2 else gate[..., None])
        new = v[:, :, t]
        if "beta" in inputs:
            recalled = torch.einsum("bhkv,bhk->bhv", S, k[:, :, t])
            new = inputs["beta"][:, :, t, None] * (new - recalled)
        S = S + torch.einsum("bhk,bhv->bhkv", k[:, :, t], new)
        contexts.append(torch.einsum("bhkv,bhk->bhv", S, q[:, :, t]))
    return torch.stack(contexts, dim=2), S


def make(
    kind: str, gates: str, length: int, dtype: torch.dtype = torch.float64, hostile: bool = False, device: str = "cpu"
) -> Inputs:
    """Random inputs of 2 examples, 3 heads; hostile ones have gates of 0 and 1, log gates of -1e4, and beta 0, 1, 2."""
    torch.manual_seed(length)
    lead = (2, 3, length)
    inputs = {
        "q": torch.randn(*lead, 5, dtype=dtype),
        "k": F.normalize(torch.randn(*lead, 5, dtype=dtype), dim=-1),
        "v": torch.randn(*lead, 4, dtype=dtype),
    }
    if kind == "delta":
        inputs["beta"] = 2 * torch.rand(lead, dtype=dtype)
        if hostile:
            inputs["beta"] = torch.where(torch.rand(lead) < 0.5, torch.randint(3, lead).to(dtype), inputs["beta"])
    if gates != "none":
        shape = lead if gates == "key" else (*lead, 5)
        log_decay = torch.rand(shape, dtype=dtype).log()
        if hostile:
            which = torch.randint(5, shape)
            for case, value in enumerate((0.0, -math.inf, -1e4)):
                log_decay = log_decay.masked_fill(which == case, value)
        inputs["log_decay"] = log_decay
    return {name: x.to(device).requires_grad_() for name, x in inputs.items()}


def run(inputs: Inputs, **options: Any) -> Mixed:
    return (delta_rule if "beta" in inputs else decayed_linear)(**inputs, **options)


def gradients(output: Tensor, inputs: Inputs) -> list[Tensor]:
    torch.manual_seed(0)
    direction = torch.randn_like(output)
    grads = torch.autograd.grad(output, list(inputs.values()), direction, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for g, x in zip(grads, inputs.values(), strict=True)]


def assert_close(actual: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    torch.testing.assert_close(actual, expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("hostile", [False, True])
@pytest.mark.parametrize("gates", GATES)
@pytest.mark.parametrize("kind", KINDS)
def test_step_by_step_in_chunks_and_as_a_matrix_it_is_one_function(
    kind: str, gates: str, hostile: bool, dtype: torch.dtype
) -> None:
    for length in LENGTHS:
        inputs = make(kind, gates, length, dtype, hostile)
        expected, state = step_by_step(inputs)
        slopes, state_slopes = gradients(expected, inputs), gradients(state, inputs)
        for chunk in (None, 64):
            mixed = run(inputs, need_weights=True, chunk=chunk)
            assert mixed.weights is not None
            assert_close(mixed.state, state, dtype)
            assert bool((mixed.weights.triu(1) == 0).all())
            for context in (mixed.context, mixed.weights @ inputs["v"]):
                assert_close(context, expected, dtype)
                for ours, theirs in zip(gradients(context, inputs), slopes, strict=True):
                    assert_close(ours, theirs, dtype)
            for ours, theirs in zip(gradients(mixed.state, inputs), state_slopes, strict=True):
                assert_close(ours, theirs, dtype)


@pytest.mark.parametrize("gates", GATES)
@pytest.mark.parametrize("kind", KINDS)
def test_in_rounds_as_on_a_gpu_the_states_are_those_of_chunk_after_chunk(
    kind: str, gates: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for length in (1, 16, 17, 50, 130):
        inputs = make(kind, gates, length, hostile=True)
        state = torch.randn(2, 3, 5, 4, dtype=torch.float64, requires_grad=True)
        found = []
        for rounds in (False, True):
            monkeypatch.setattr(torch.compiler, "is_compiling", lambda rounds=rounds: rounds)
            mixed = run(inputs, state=state, chunk=4)
            slopes = [g for output in mixed[::2] for g in gradients(output, inputs | {"state": state})]
            found.append([mixed.context, mixed.state, *slopes])
        for ours, theirs in zip(*found, strict=True):
            assert_close(ours, theirs, torch.float64)


@pytest.mark.parametrize("kind", KINDS)
def test_a_compiler_sees_log_n_rounds_and_not_n_chunks(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Calls(TorchFunctionMode):
        count = 0

        def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.count += 1
            return func(*args, **(kwargs or {}))

    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    counts = []
    for length in (64, 1024):  # 16 and 256 chunks
        inputs = make(kind, "channel", length)
        with Calls() as calls:
            run(inputs, chunk=4)
        counts.append(calls.count)
    assert counts[1] - counts[0] < 100


@pytest.mark.parametrize("gates", GATES)
@pytest.mark.parametrize("kind", KINDS)
def test_not_causal_every_query_reads_the_last_state(kind: str, gates: str) -> None:
    for length in (1, 17, 65):
        inputs = make(kind, gates, length, hostile=True)
        inputs["q"] = torch.randn(2, 3, 7, 5, dtype=torch.float64)
        _, state = step_by_step(inputs | {"q": inputs["k"]})
        mixed = run(inputs, causal=False, need_weights=True)
        assert mixed.weights is not None
        assert_close(mixed.state, state, torch.float64)
        assert_close(mixed.context, inputs["q"] @ state, torch.float64)
        assert_close(mixed.weights @ inputs["v"], inputs["q"] @ state, torch.float64)


@pytest.mark.parametrize("gates", GATES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_sequence_in_two_parts_with_the_state_between_is_the_whole(kind: str, gates: str) -> None:
    inputs = make(kind, gates, 50)
    whole = run(inputs)
    for cut in (1, 16, 31):
        first = run({name: x[:, :, :cut] for name, x in inputs.items()})
        rest = {name: x[:, :, cut:] for name, x in inputs.items()}
        second = run(rest, state=first.state)
        assert_close(torch.cat((first.context, second.context), dim=2), whole.context, torch.float64)
        assert_close(second.state, whole.state, torch.float64)
        last = run(rest | {"q": rest["q"][:, :, :2]}, state=first.state, causal=False)
        assert_close(last.context, rest["q"][:, :, :2] @ whole.state, torch.float64)


@pytest.mark.parametrize("gates", GATES)
@pytest.mark.parametrize("kind", KINDS)
def test_without_gradients_a_part_at_a_time_is_the_whole(
    kind: str, gates: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for length in (1, 16, 50, 130):
        inputs = make(kind, gates, length, hostile=True)
        before = {name: x.detach().clone() for name, x in inputs.items()}
        for causal in (True, False):
            whole = run(inputs, causal=causal, need_weights=True)
            monkeypatch.setattr(chunkwise, "CACHED", 32 * 32)  # 32 keys of 6 x 5 numbers
            with torch.no_grad():
                parts = run(inputs, causal=causal, need_weights=True)
            for part, expected in zip(parts, whole, strict=True):
                assert_close(part, expected, torch.float64)
        for name, x in inputs.items():
            assert torch.equal(x, before[name])


@pytest.mark.parametrize("recorded", [True, False])
def test_gates_alone_may_be_mapped_over(recorded: bool) -> None:
    inputs = {name: x.detach() for name, x in make("linear", "channel", 17).items()}
    gates = torch.stack([inputs["log_decay"], 2 * inputs["log_decay"]])
    with torch.set_grad_enabled(recorded):
        mapped = torch.func.vmap(lambda gate: run(inputs | {"log_decay": gate}).context)(gates)
    for context, gate in zip(mapped, gates, strict=True):
        assert_close(context, run(inputs | {"log_decay": gate}).context, torch.float64)


@pytest.mark.parametrize("gates", GATES)
@pytest.mark.parametrize("kind", KINDS)
def test_at_padding_nothing_happens(kind: str, gates: str) -> None:
    """Keys that are padding, wherever they stand, might as well not be there: the state is that of the others."""
    inputs = make(kind, gates, 40)
    padding = torch.rand(2, 40) < 0.6
    for causal in (True, False):
        mixed = run(inputs, padding=padding, causal=causal, need_weights=True)
        assert mixed.weights is not None
        for b in range(2):
            shown = {name: x[b : b + 1, :, padding[b]] for name, x in inputs.items()}
            alone = run(shown, causal=causal, need_weights=True)
            assert_close(mixed.context[b : b + 1, :, padding[b]], alone.context, torch.float64)
            assert_close(mixed.state[b : b + 1], alone.state, torch.float64)
            assert_close(mixed.weights[b : b + 1, :, padding[b]][..., padding[b]], alone.weights, torch.float64)
            assert bool((mixed.weights[b, :, :, ~padding[b]] == 0).all())


def test_decayed_linear_in_numbers() -> None:
    """Gates of 1/2 for each of two keys: S_1 = 1·4, S_2 = 4/2 + 2·3 = 8; read by 1 and by 3."""
    one = torch.tensor([1.0, 3.0]).view(1, 2, 1)
    k, v = torch.tensor([1.0, 2.0]).view(1, 2, 1), torch.tensor([4.0, 3.0]).view(1, 2, 1)
    mixed = decayed_linear(one, k, v, torch.full((1, 2), 0.5).log(), need_weights=True)
    assert mixed.weights is not None
    torch.testing.assert_close(mixed.context.flatten(), torch.tensor([4.0, 24.0]))
    torch.testing.assert_close(mixed.weights[0], torch.tensor([[1.0, 0.0], [1.5, 6.0]]))
    assert mixed.state.item() == pytest.approx(8)


def test_delta_rule_in_numbers() -> None:
    """One key direction, beta of 1/2: S_1 = 1/2·4 = 2, S_2 = 2 + 1/2 (8 - 2) = 5, the second value half forgets it."""
    k, v = torch.ones(1, 2, 1), torch.tensor([4.0, 8.0]).view(1, 2, 1)
    mixed = delta_rule(k, k, v, torch.full((1, 2), 0.5), need_weights=True)
    assert mixed.weights is not None
    torch.testing.assert_close(mixed.context.flatten(), torch.tensor([2.0, 5.0]))
    torch.testing.assert_close(mixed.weights[0], torch.tensor([[0.5, 0.0], [0.25, 0.5]]))


def test_beta_of_two_reflects_and_so_counts_parity() -> None:
    """With beta = 2 and v = 0 each key turns the sign of what it finds: no gate between 0 and 1 can."""
    k = torch.ones(1, 5, 1, dtype=torch.float64)
    state = torch.ones(1, 1, 1, dtype=torch.float64)
    mixed = delta_rule(k, k, torch.zeros_like(k), torch.full((1, 5), 2.0, dtype=torch.float64), state=state)
    torch.testing.assert_close(mixed.context.flatten(), torch.tensor([-1.0, 1.0, -1.0, 1.0, -1.0], dtype=torch.float64))


@pytest.mark.parametrize("gates", ["key", "channel"])
@pytest.mark.parametrize("kind", KINDS)
def test_no_exponent_is_positive(kind: str, gates: str) -> None:
    class Exponents(TorchFunctionMode):
        largest = -math.inf

        def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if "exp" in getattr(func, "__name__", "").split("_"):
                self.largest = max(self.largest, float(args[0].detach().max()))
            return func(*args, **(kwargs or {}))

    inputs = make(kind, gates, 130, hostile=True)
    with Exponents() as exponents:
        run(inputs, need_weights=True)
        run(inputs, need_weights=True, causal=False)
    assert exponents.largest == 0


@pytest.mark.parametrize("kind", KINDS)
def test_small_gates_lose_no_digits(kind: str) -> None:
    """After gates whose logarithms sum to -1e7, differences of running sums would be off by one in float32."""
    inputs = make(kind, "channel", 64, torch.float32)
    log_decay = inputs["log_decay"].detach().clone()
    log_decay[:, :, :32] = -3e5
    exact = {name: x.detach().double() for name, x in (inputs | {"log_decay": log_decay}).items()}
    expected = step_by_step(exact)[0].float()
    torch.testing.assert_close(run(inputs | {"log_decay": log_decay}).context, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_accumulates_in_float32(kind: str, dtype: torch.dtype) -> None:
    inputs = {name: x.detach().to(dtype) for name, x in make(kind, "channel", 65, torch.float32).items()}
    mixed, expected = run(inputs), run({name: x.float() for name, x in inputs.items()})
    assert mixed.context.dtype == dtype
    assert mixed.state.dtype == torch.float32
    torch.testing.assert_close(mixed.context, expected.context.to(dtype), rtol=0, atol=0)
    with torch.autocast("cpu", torch.bfloat16):
        cast = run({name: x.float() for name, x in inputs.items()})
    torch.testing.assert_close(cast.context, expected.context, rtol=0, atol=0)


@pytest.mark.parametrize("gates", GATES)
@pytest.mark.parametrize("kind", KINDS)
def test_second_derivatives_exist(kind: str, gates: str) -> None:
    inputs = {name: x[:1, :1].detach().requires_grad_() for name, x in make(kind, gates, 3).items()}
    names = list(inputs)

    def context(*leaves: Tensor) -> Tensor:
        return run(dict(zip(names, leaves, strict=True)), chunk=2).context

    assert torch.autograd.gradgradcheck(context, tuple(inputs.values()))


@pytest.mark.parametrize("gates", GATES)
@pytest.mark.parametrize("kind", KINDS)
def test_it_compiles_and_exports_whole(kind: str, gates: str) -> None:
    inputs = {name: x.detach() for name, x in make(kind, gates, 40, torch.float32).items()}
    padding = torch.ones(2, 40, dtype=torch.bool)
    expected = run(inputs, padding=padding).context

    class Module(torch.nn.Module):
        def forward(self, inputs: Inputs, padding: Tensor) -> Tensor:
            return run(inputs, padding=padding).context

    torch._dynamo.reset()
    compiled = torch.compile(Module(), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(inputs, padding), expected)
    exported = torch.export.export(Module(), (inputs, padding)).module()
    torch.testing.assert_close(exported(inputs, padding), expected)


@pytest.mark.parametrize("gates", GATES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("device", "batch", "length"), [("meta", 2, 70), ("cpu", 0, 70), ("cpu", 2, 0), ("meta", 0, 0)]
)
def test_no_examples_no_keys_and_no_numbers_have_shapes(
    kind: str, gates: str, device: str, batch: int, length: int
) -> None:
    inputs = {name: x[:batch].detach() for name, x in make(kind, gates, length, torch.float32, device=device).items()}
    padding = torch.ones(batch, length, dtype=torch.bool, device=device)
    for causal in (True, False):
        mixed = run(inputs, causal=causal, padding=padding, need_weights=True)
        assert mixed.weights is not None
        assert mixed.context.shape == (batch, 3, length, 4)
        assert mixed.weights.shape == (batch, 3, length, length)
        assert mixed.state.shape == (batch, 3, 5, 4)


def test_what_does_not_fit_is_refused() -> None:
    q, k, v, beta = torch.randn(2, 3, 4), torch.randn(2, 5, 4), torch.randn(2, 5, 6), torch.rand(2, 5)
    with pytest.raises(ValueError, match="as many queries as keys, not 3 and 5"):
        decayed_linear(q, k, v)
    with pytest.raises(ValueError, match=r"not \[2, 5, 4\], \[2, 5, 4\] and \[2, 4, 6\]"):
        decayed_linear(k, k, v[:, :4])
    with pytest.raises(ValueError, match=r"log_decay is \[2, 5\] or \[2, 5, 4\], not \[2, 5, 6\]"):
        decayed_linear(k, k, v, v)
    with pytest.raises(ValueError, match=r"one number for each key, \[2, 5\], not \[5\]"):
        delta_rule(k, k, v, beta[0])
    with pytest.raises(ValueError, match="power of two, not 24; try chunk=32"):
        delta_rule(k, k, v, beta, chunk=24)
