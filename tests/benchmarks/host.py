"""What the causal host of token tasks costs a step, over the same model written plainly in one file; and its data.

    python tests/benchmarks/host.py [steps]

The two models begin with the same parameters and take turns in one process, a step each on the same batch, so that the
machine's changes of speed hit both alike; their losses are checked to be the same. Printed for each size: the median
CPU milliseconds of a step (loss, gradient, AdamW's update), the ratio pair by pair (median, first and third quartile),
and what drawing a batch costs in shares of a step.
"""

import platform
import statistics
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from attnbench.plugins.attention.multihead import MultiHead
from attnbench.plugins.scoring.scaled_dot import ScaledDot
from torch import Tensor, nn

import attnbench
from attnbench import Sequences, TokenTask
from attnbench.hosts import Transformer

HEADS, BATCH = 2, 64
SIZES = [  # width, layers, mlp, conv, length, share of places that are scored
    (32, 1, 0, 2, 32, 0.25),
    (32, 2, 0, 0, 64, 0.25),
    (64, 2, 4, 0, 64, 1.0),
    (64, 2, 4, 4, 128, 0.1),
]


class Plain(nn.Module):
    """The model with nothing exchangeable: a Transformer with one fused attention, as one writes it for oneself."""

    def __init__(self, vocabulary: int, width: int, layers: int, mlp: int, conv: int) -> None:
        super().__init__()
        self.conv_size, self.layers = conv, layers
        self.embed = nn.Embedding(vocabulary, width)
        names = ("q", "k", "v", "o", "out_proj")
        self.projections = nn.ModuleList(
            nn.ModuleDict({n: nn.Linear(width, width) for n in names}) for _ in range(layers)
        )
        self.norms = nn.ModuleList(nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)]) for _ in range(layers))
        self.feeds = nn.ModuleList(
            nn.Sequential(nn.Linear(width, mlp * width), nn.GELU(), nn.Linear(mlp * width, width))
            if mlp
            else nn.Identity()
            for _ in range(layers)
        )
        self.convs = nn.ParameterList(nn.Parameter(torch.zeros(conv, width)) for _ in range(layers if conv else 0))
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(width)) for _ in range(layers if conv else 0))
        self.norm, self.out = nn.LayerNorm(width), nn.Linear(width, vocabulary)

    def forward(self, tokens: Tensor, scored: Tensor) -> Tensor:
        x = self.embed(tokens)
        B, T, D = x.shape
        for i in range(self.layers):
            p = self.projections[i]
            h = self.norms[i][0](x)
            if self.conv_size:
                padded, taps = F.pad(h, (0, 0, self.conv_size - 1, 0)), self.convs[i]
                shifts = [padded[:, self.conv_size - 1 - j :][:, :T] * taps[j] for j in range(self.conv_size)]
                h = h + self.biases[i] + sum(shifts)
            q, k, v = (p[name](h).view(B, T, HEADS, D // HEADS).transpose(1, 2) for name in "qkv")
            heads = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + p["out_proj"](p["o"](heads.transpose(1, 2).reshape(B, T, D)))
            if i == self.layers - 1:
                x = x[scored]
            if not isinstance(self.feeds[i], nn.Identity):
                x = x + self.feeds[i](self.norms[i][1](x))
        return self.out(self.norm(x))

    def copy(self, host: Transformer) -> None:
        """Take the host's parameters."""
        with torch.no_grad():
            for i, block in enumerate(host.blocks):
                mine, theirs = self.projections[i], block.attention
                for name, layer in {
                    "q": theirs.q_proj, "k": theirs.k_proj, "v": theirs.v_proj, "o": theirs.out_proj,
                    "out_proj": block.out_proj,
                }.items():  # fmt: skip
                    mine[name].load_state_dict(layer.state_dict())
                for j, norm in enumerate(block.norms):
                    self.norms[i][j].load_state_dict(norm.state_dict())
                if block.feed is not None:
                    self.feeds[i].load_state_dict(block.feed.state_dict())
                if block.conv is not None:
                    self.convs[i].copy_(block.conv.weight)
                    self.biases[i].copy_(block.conv.bias)
            for name in ("embed", "norm", "out"):
                getattr(self, name).load_state_dict(getattr(host, name).state_dict())


class Task(TokenTask):
    """Random tokens, a share of them scored."""

    def __init__(self, width: int, layers: int, mlp: int, conv: int, length: int, share: float) -> None:
        super().__init__(64, width=width, layers=layers, mlp=mlp, conv=conv)
        self.length, self.share = length, share

    def generate(self, draws: attnbench.Draws) -> Sequences:
        """Draw tokens, targets, and which are scored."""
        tokens, targets = draws.integers(64, self.length), draws.integers(64, self.length)
        return Sequences(tokens, targets, draws.bernoulli(self.share, self.length))


def processor() -> str:
    """Return the processor's name."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def make_attention(query_dim: int, key_dim: int, value_dim: int) -> MultiHead:
    """Fill the slot."""
    return MultiHead(query_dim, key_dim, value_dim, ScaledDot, num_heads=HEADS)


def measure(size: tuple[int, int, int, int, int, float], steps: int) -> str:
    """Let the two take turns; return a line of the table."""
    task = Task(*size)
    host = task.model(make_attention)
    assert isinstance(host, Transformer)
    plain = Plain(64, *size[:4])
    plain.copy(host)
    models: dict[str, nn.Module] = {"host": host, "plain": plain}
    optimizers = {name: torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True) for name, model in models.items()}
    data = task.data("train")
    times: dict[str, list[float]] = {"host": [], "plain": [], "data": []}
    for step in range(steps):
        start = time.process_time()
        batch = data[list(range(BATCH * step, BATCH * (step + 1)))]
        times["data"].append(time.process_time() - start)
        losses = {}
        for name in ("host", "plain") if step % 2 else ("plain", "host"):
            start = time.process_time()
            optimizers[name].zero_grad()
            if name == "host":
                loss = task.loss(models[name], batch)
            else:
                loss = F.cross_entropy(models[name](batch.tokens, batch.scored), batch.targets[batch.scored])
            loss.backward()
            optimizers[name].step()
            times[name].append(time.process_time() - start)
            losses[name] = float(loss.detach())
        assert step > 5 or abs(losses["host"] - losses["plain"]) < 1e-4, losses
    settled = {name: values[10:] for name, values in times.items()}
    pairs = [host / plain for host, plain in zip(settled["host"], settled["plain"], strict=True)]
    first, middle, third = statistics.quantiles(pairs, n=4)
    ms = {name: 1e3 * statistics.median(values) for name, values in settled.items()}
    words = " ".join(f"{value:>6}" for value in size)
    return (
        f"{words} | {ms['plain']:7.2f} {ms['host']:7.2f} | {middle:.3f} ({first:.3f}, {third:.3f}) | "
        f"{ms['data']:6.3f} ms, {ms['data'] / ms['host']:.1%}"
    )


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    print(f"{processor()}, torch {torch.__version__}, one thread, batch {BATCH}, {steps} steps each")
    print(" width layers    mlp   conv length scored |   plain    host ms | host / plain (quartiles) | drawing a batch")
    for size in SIZES:
        print(measure(size, steps), flush=True)


if __name__ == "__main__":
    main()
