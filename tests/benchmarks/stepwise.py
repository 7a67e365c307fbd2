"""What asking one query after the other costs, over one call with all queries: keys projected again each time, or once.

    python tests/benchmarks/stepwise.py

Ten queries, no gradients. The three take turns in one process, so that the machine's changes of speed hit them alike.
Printed: the median CPU milliseconds of each, and the median ratio, turn by turn, to the call with all queries. Then the
same of the Transformer that translates, which writes ten words of a source of so many keys: over writing them with keys
projected anew.
"""

import statistics
import time
from functools import partial

import torch

import attnbench
from attnbench.hosts import EncoderDecoderTransformer, Unrolled, attend_next, encoder_decoder_transformer, prepare_keys

B, Q, K, D, TURNS = 32, 10, 60, 128, 20
VOCABULARY = 1000
MECHANISMS = (("soft", "additive"), ("soft", "bilinear"), ("soft", "cosine"), ("multihead", "scaled_dot"))


def one_by_one(ask, query):
    """Ask one query after the other."""
    state = Unrolled()
    for t in range(Q):
        _, state = ask(query[:, t : t + 1], state)


def keys_anew(attention, key, value, mask):
    """Return what `prepare_keys` does, without preparing."""
    return lambda query, state, **options: attend_next(attention, query, key, value, mask, state, **options)


def in_turns(*ways):
    """Return the CPU milliseconds of each way, turn by turn."""
    times = [[] for _ in ways]
    for _ in range(TURNS):
        for way, taken in zip(ways, times, strict=True):
            start = time.process_time()
            way()
            taken.append((time.process_time() - start) * 1e3)
    return times


def ratios(times):
    """Return the median of each, and the median ratio to the first, as text."""
    line = f"{statistics.median(times[0]):10.1f}"
    for taken in times[1:]:
        ratio = statistics.median(t / whole for t, whole in zip(taken, times[0], strict=True))
        line += f"{statistics.median(taken):10.1f}{ratio:7.2f}x"
    return line


def decoder():
    """Write with the Transformer, its keys anew at each word or prepared once."""

    def make_attention(*widths):
        widths = dict(zip(("query_dim", "key_dim", "value_dim"), widths, strict=True))
        return attnbench.build("attention", "multihead", scoring="scaled_dot", **widths)

    model = EncoderDecoderTransformer(make_attention, VOCABULARY, source_vocabulary=VOCABULARY, width=D, end=-1).eval()
    source = torch.randint(3, VOCABULARY, (B, K))

    def write(prepare):
        encoder_decoder_transformer.prepare_keys = prepare
        model.greedy(source, Q)

    print(f"{'':24}{'each anew':>10}{'prepared once':>18}")
    print(f"{'the Transformer writes':24}{ratios(in_turns(partial(write, keys_anew), partial(write, prepare_keys)))}")


@torch.no_grad()
def main():
    """Measure and print."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    query, key = torch.randn(B, Q, D), torch.randn(B, K, D)
    mask = torch.arange(K) < torch.randint(K // 2, K + 1, (B, 1, 1))
    print(f"B={B} Q={Q} K={K} D={D}, with weights: CPU ms, ratio to all queries at once")
    print(f"{'':24}{'at once':>10}{'each anew':>18}{'prepared once':>18}")
    for name, scoring in MECHANISMS:
        attention = attnbench.build("attention", name, scoring=scoring, query_dim=D, key_dim=D, value_dim=D).eval()

        def prepared(attention=attention):
            one_by_one(prepare_keys(attention, key, key, mask), query)

        anew = partial(one_by_one, keys_anew(attention, key, key, mask), query)
        print(f"{name + ' ' + scoring:24}{ratios(in_turns(partial(attention, query, key, key, mask), anew, prepared))}")
    decoder()


if __name__ == "__main__":
    main()
