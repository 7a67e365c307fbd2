"""attnbench: the bench on which attention mechanisms are proven. All that a plugin imports is here."""

from attnbench import startup  # noqa: F401 (before all others)

# isort: split
from attnbench import chunkwise, downloads, heads, hosts, prefix, sampling, shapes
from attnbench.answers import AttentionMap, Prediction
from attnbench.errors import UsageError
from attnbench.hookspecs import Register, hookimpl
from attnbench.interfaces import Attention, MakeAttention, MakeScore, Published, ScoringFunction, Split, Task, append
from attnbench.kernels import attend, fused_attention, has_hooks, prepare
from attnbench.masking import (
    NORMALISERS,
    UNNORMALISED,
    Normaliser,
    causal_mask,
    full_precision,
    hide_masked,
    masked_entmax15,
    masked_sigmoid,
    masked_softmax,
    masked_softmax1,
    masked_sparsemax,
    prefix_mask,
    valid_lengths_to_mask,
)
from attnbench.prefix import PrefixAttention
from attnbench.registry import build, names
from attnbench.sampling import Draws
from attnbench.sequences import Sequences, TokenBatch
from attnbench.tokens import TokenTask

__version__ = "0.1.0"

__all__ = [
    "NORMALISERS",
    "UNNORMALISED",
    "Attention",
    "AttentionMap",
    "Draws",
    "MakeAttention",
    "MakeScore",
    "Normaliser",
    "Prediction",
    "PrefixAttention",
    "Published",
    "Register",
    "ScoringFunction",
    "Sequences",
    "Split",
    "Task",
    "TokenBatch",
    "TokenTask",
    "UsageError",
    "append",
    "attend",
    "build",
    "causal_mask",
    "chunkwise",
    "downloads",
    "full_precision",
    "fused_attention",
    "has_hooks",
    "heads",
    "hide_masked",
    "hookimpl",
    "hosts",
    "masked_entmax15",
    "masked_sigmoid",
    "masked_softmax",
    "masked_softmax1",
    "masked_sparsemax",
    "names",
    "prefix",
    "prefix_mask",
    "prepare",
    "sampling",
    "shapes",
    "valid_lengths_to_mask",
]
