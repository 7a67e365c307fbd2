"""What attention costs: time and memory by length, beside torch's own, all measured in turn in one process."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from omegaconf import OmegaConf
from torch import Tensor, nn

from attnbench.config import mechanism, read_override
from attnbench.errors import UsageError, first_line, is_out_of_memory, nearest
from attnbench.files import writable, write_text
from attnbench.hosts.attend import attend
from attnbench.interfaces import Attention, ScoringFunction
from attnbench.measure import (
    MODES,
    Call,
    available_memory,
    exponent,
    extra_memory,
    kept_threads,
    quartiles,
    time_in_turn,
)
from attnbench.registry import Registry
from attnbench.schema import fill, takes_score

#: Of these words the values may be several, with commas between them.
LISTS = ("attention", "scoring", "reference", "length")
#: Ends the name of a row that was measured under torch.compile.
COMPILED = " compiled"


class Dtype(Enum):
    """What is computed in."""

    float32 = "float32"
    float64 = "float64"
    bfloat16 = "bfloat16"
    float16 = "float16"


@dataclass
class BenchConfig:
    """What is measured, on what; several values stand with commas between them."""

    attention: list[str] | None = field(default_factory=lambda: ["soft", "multihead"])  # null: scores alone
    scoring: list[str] = field(default_factory=lambda: ["scaled_dot", "additive"])  # for the modules that take one
    reference: list[str] | None = None  # null: torch_mha,torch_sdpa, or textbook_additive beside scores alone
    length: list[int] = field(default_factory=lambda: [128, 512, 2048])  # queries, and as many keys
    batch: int = 8  # examples
    dim: int = 64  # of queries, keys and values
    heads: int = 4  # of torch_mha; ours have their own option
    weights: bool = False  # ask for the weights
    causal: bool = False  # query i sees keys up to i
    compile: bool = False  # measure our modules once more under torch.compile
    rounds: int = 7  # in each, everything is timed once
    device: str = "cpu"  # cpu or cuda
    dtype: Dtype = Dtype.float32  # of tensors and parameters
    threads: int = 1  # of the CPU
    output: str = "bench"  # folder for bench.json and bench.png; what is there is replaced


class TorchMHA(nn.Module):
    """`torch.nn.MultiheadAttention`."""

    def __init__(self, config: BenchConfig) -> None:
        super().__init__()
        if config.dim % config.heads:
            raise UsageError(f"heads={config.heads} does not divide dim={config.dim}, as torch_mha needs")
        self.attention = nn.MultiheadAttention(config.dim, config.heads, batch_first=True)
        self.weights, self.causal = config.weights, config.causal

    def forward(self, x: Tensor) -> Tensor:
        """Attend, and return the context."""
        later = nn.Transformer.generate_square_subsequent_mask(x.shape[1], x.device, x.dtype) if self.causal else None
        context: Tensor = self.attention(
            x, x, x, need_weights=self.weights, average_attn_weights=False, attn_mask=later, is_causal=self.causal
        )[0]
        return context


class TorchSDPA(nn.Module):
    """`torch.nn.functional.scaled_dot_product_attention`, one head and nothing around it."""

    def __init__(self, config: BenchConfig) -> None:
        super().__init__()
        self.causal = config.causal

    def forward(self, x: Tensor) -> Tensor:
        """Attend, and return the context."""
        x = x.unsqueeze(1)  # its kernel is for four dimensions
        context: Tensor = F.scaled_dot_product_attention(x, x, x, is_causal=self.causal)
        return context.squeeze(1)


class TextbookAdditive(nn.Module):
    """Bahdanau's equation as it is written, every pair of tokens at once: what `additive` is to be faster than."""

    def __init__(self, config: BenchConfig) -> None:
        super().__init__()
        self.W, self.U = (nn.Linear(config.dim, config.dim, bias=False) for _ in range(2))
        self.v = nn.Linear(config.dim, 1, bias=False)
        self.attends, self.causal = config.attention is not None, config.causal

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores, or attend and return the context."""
        scores: Tensor = self.v(torch.tanh(self.W(x).unsqueeze(-2) + self.U(x).unsqueeze(-3))).squeeze(-1)
        if self.causal:
            scores = scores.masked_fill(torch.ones_like(scores[0], dtype=torch.bool).triu(1), -torch.inf)
        return torch.softmax(scores, dim=-1) @ x if self.attends else scores


class Scored(nn.Module):
    """A registered scoring function, by itself."""

    def __init__(self, score: ScoringFunction) -> None:
        super().__init__()
        self.score = score

    def forward(self, x: Tensor) -> Tensor:
        """Score every token against every other."""
        scores: Tensor = self.score(x, x)
        return scores


class Ours(nn.Module):
    """A registered attention module, called as a host calls it."""

    def __init__(self, attention: Attention, weights: bool, causal: bool) -> None:
        super().__init__()
        self.attention, self.weights, self.causal = attention, weights, causal

    def forward(self, x: Tensor) -> Tensor:
        """Attend, one query after the other where the mechanism is recurrent, and return the context."""
        return attend(self.attention, x, x, x, causal=self.causal, need_weights=self.weights)[0]


REFERENCES: Mapping[str, Callable[[BenchConfig], nn.Module]] = {
    "torch_mha": TorchMHA,
    "torch_sdpa": TorchSDPA,
    "textbook_additive": TextbookAdditive,
}


@kept_threads()
def run(
    registry: Registry,
    words: Sequence[str],
    say: Callable[[str], None] = print,
    tell: Callable[[int, int, str], None] = lambda done, total, what: None,
) -> dict[str, Any]:
    """Measure what the words choose, write bench.json, and return what is in it.

    Args:
        registry: the components there are.
        words: `key=value`, the keys those of `BenchConfig`, or attention.OPTION and scoring.OPTION.
        say: told of what is left out, and why.
        tell: told of what is being measured, and how many of how many measurements are done.

    Raises:
        UsageError: a word is not understood, or a component refuses its options.
    """
    config, options = read(words)
    folder = Path(config.output)
    folder.mkdir(parents=True, exist_ok=True)
    writable(folder / "bench.json")
    torch.set_num_threads(config.threads)
    torch.manual_seed(0)
    modules = dict(contenders(registry, config, options, words))
    try:
        device, dtype = torch.device(config.device), getattr(torch, config.dtype.value)
        modules = {name: module.to(device, dtype) for name, module in modules.items()}
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"device={config.device}: {str(error).splitlines()[0]}") from error
    rows: list[dict[str, Any]] = []
    total = len(config.length) * (len(modules) + len(MODES) * (config.rounds + 1))
    number = itertools.count()
    for length in sorted(config.length):
        x = torch.randn(config.batch, length, config.dim, device=device, dtype=dtype, requires_grad=True)
        rows += at_length(modules, x, rows, config.rounds, say, lambda what: tell(next(number), total, what))
    if not rows:
        raise UsageError("bench: nothing was measured; see above what was left out, and why")
    first = rows[0]["name"]
    for row in rows:
        against = next((r for r in rows if (r["length"], r["name"]) == (row["length"], first)), None)
        for mode in MODES:
            row[mode]["ratio"] = row[mode]["seconds"] / against[mode]["seconds"] if against else None
    result = {
        "config": {**asdict(config), "dtype": config.dtype.value, "options": options},
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "rows": rows,
        "exponents": exponents(rows),
    }
    write_text(folder / "bench.json", json.dumps(result, indent=2) + "\n")
    return result


def read(words: Sequence[str]) -> tuple[BenchConfig, dict[str, dict[str, Any]]]:
    """Turn words into a config, and the options of attention and scoring.

    Raises:
        UsageError: a word is no key=value, its key is unknown, or its value of the wrong type or too small.
    """
    values: dict[str, Any] = {}
    options: dict[str, dict[str, Any]] = {"attention": {}, "scoring": {}}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals:
            raise UsageError(f"bench: {word} is no key=value; such as attention=multihead length=128,512")
        group, _, option = key.partition(".")
        if option and group in options:
            options[group][option] = read_override(word)[1]
        else:
            several = [part for part in text.strip("[]").split(",") if part] if key in LISTS else text
            values[key] = None if text == "null" else several
    config = OmegaConf.to_object(fill("bench", BenchConfig, values))
    assert isinstance(config, BenchConfig)
    if config.reference is None:
        config.reference = ["textbook_additive"] if config.attention is None else ["torch_mha", "torch_sdpa"]
    for key in ("batch", "dim", "heads", "rounds", "threads"):
        if getattr(config, key) < 1:
            raise UsageError(f"{key}={getattr(config, key)}: at least 1")
    if not config.length or min(config.length) < 1:
        raise UsageError(f"length={','.join(map(str, config.length))}: numbers of tokens, such as length=128,512,2048")
    if config.attention is None and (config.weights or config.causal or options["attention"]):
        raise UsageError("attention=null measures scores alone: leave out weights=, causal= and attention.OPTION=")
    return config, options


def contenders(
    registry: Registry, config: BenchConfig, options: Mapping[str, Mapping[str, Any]], words: Sequence[str]
) -> Iterator[tuple[str, nn.Module]]:
    """Make the references, and every attention with every scoring function, where it uses one.

    Raises:
        UsageError: a name is unknown, or options or widths are refused.
    """
    for name in config.reference or []:
        if name not in REFERENCES:
            raise UsageError(f"reference={name}: no such reference; {nearest(name, REFERENCES)}")
        if config.attention is None and name != "textbook_additive":
            raise UsageError(f"reference={name} attends, but attention=null measures scores alone: leave one out")
        yield name, REFERENCES[name](config)
    for label, module in chosen(registry, config, options, words):
        yield label, module
        if config.compile:
            compiled: Any = torch.compile(module, dynamic=False)
            yield label + COMPILED, compiled


def chosen(
    registry: Registry, config: BenchConfig, options: Mapping[str, Mapping[str, Any]], words: Sequence[str]
) -> Iterator[tuple[str, nn.Module]]:
    """Make every attention with every scoring function, where it uses one; or the scoring functions by themselves."""
    widths = dict.fromkeys(("query_dim", "key_dim", "value_dim"), config.dim)
    scorings = [{"name": name, **options["scoring"]} for name in config.scoring]
    if config.attention is None:
        for scoring in scorings:
            yield scoring["name"], Scored(registry.build("scoring", scoring, query_dim=config.dim, key_dim=config.dim))
        return
    scored = [name for name in config.attention if takes_score(registry.get("attention", name).cls)]
    if config.attention and not scored and any(word.startswith("scoring") for word in words):
        raise UsageError(registry.incompatibility(config.attention[0], scoring=config.scoring[0]))
    for name in config.attention:
        if config.weights and not registry.get("attention", name).cls.has_weights:
            raise UsageError(f"weights=true: attention={name} has no weights to give; leave one of them out")
        attention = {"name": name, **options["attention"]}
        for score in scorings if name in scored else [None]:
            module = registry.build_attention(attention, score, **widths)
            yield mechanism(name, str(score["name"]) if score else None), Ours(module, config.weights, config.causal)


def at_length(
    modules: Mapping[str, nn.Module],
    x: Tensor,
    before: Sequence[Mapping[str, Any]],
    rounds: int,
    say: Callable[[str], None],
    tell: Callable[[str], None],
) -> list[dict[str, Any]]:
    """Measure every module at one length; what memory does not suffice for, going by the last length, is left out."""
    length = x.shape[1]
    calls: dict[str, tuple[Call, Call]] = {}
    rows: dict[str, dict[str, Any]] = {}
    for name, module in modules.items():
        tell(f"length {length}: memory of {name}")
        known = [row for row in before if row["name"] == name]
        last = known[-1] if known else None
        needed = last and (last[MODES[1]]["memory_bytes"] or 0) * (length / last["length"]) ** 2
        if (before and last is None) or (needed and needed > 0.8 * available_memory(x.device)):
            reason = f"would need about {needed / 1e9:.1f} GB" if needed else "left out at a shorter length"
            say(f"length {length}: {name} left out: {reason}")
            continue
        pair = forward(module, x), forward_backward(module, x)
        try:
            memory = [extra_memory(call, x.device) for call in pair]
        except RuntimeError as error:  # no memory for it, or no compiler
            if not (name.endswith(COMPILED) or is_out_of_memory(error)):
                raise
            say(f"length {length}: {name} left out: {first_line(error)}")
            continue
        calls[name] = pair
        rows[name] = {"name": name, "length": length}
        for mode, peak in zip(MODES, memory, strict=True):
            rows[name][mode] = {"memory_bytes": peak}
    for place, mode in enumerate(MODES):
        begun = partial(tell, f"length {length}: {mode}, seconds")
        times = time_in_turn({name: pair[place] for name, pair in calls.items()}, rounds, x.device, begun)
        for name, measured in times.items():
            low, middle, high = quartiles(measured)
            rows[name][mode] |= {"seconds": middle, "q1": low, "q3": high, "rounds": len(measured)}
    return list(rows.values())


def forward(module: nn.Module, x: Tensor) -> Call:
    """Return the call that computes the context, and keeps nothing for gradients."""

    def call() -> None:
        with torch.no_grad():
            module(x)

    return call


def forward_backward(module: nn.Module, x: Tensor) -> Call:
    """Return the call that computes the context, and the gradients to the input and every parameter."""
    inputs = (x, *module.parameters())

    def call() -> None:
        context = module(x)
        torch.autograd.grad(context, inputs, torch.ones_like(context), allow_unused=True)

    return call


def exponents(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """Fit cost = c · length^p, for time and memory: p and its standard error by name, from three lengths at least."""
    fitted: dict[str, dict[str, dict[str, float]]] = {}
    for name in dict.fromkeys(row["name"] for row in rows):
        mine = [row for row in rows if row["name"] == name]
        for mode in MODES:
            for what, unit in (("seconds", "time"), ("memory_bytes", "memory")):
                points = [(row["length"], row[mode][what]) for row in mine if row[mode][what]]
                if len({length for length, _ in points}) > 2:
                    power, error = exponent(points)
                    fitted.setdefault(name, {})[f"{mode} {unit}"] = {"power": power, "error": error}
    return fitted
