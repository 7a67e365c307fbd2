"""Models with a slot for attention, which tasks share."""

from attnbench.hosts.attend import Unrolled, attend, attend_next, prepare_keys
from attnbench.hosts.encoder_decoder import Cell, Decoded, Encoded, EncoderDecoder
from attnbench.hosts.encoder_decoder_transformer import EncoderDecoderTransformer
from attnbench.hosts.transformer import Positions, Transformer

__all__ = [
    "Cell",
    "Decoded",
    "Encoded",
    "EncoderDecoder",
    "EncoderDecoderTransformer",
    "Positions",
    "Transformer",
    "Unrolled",
    "attend",
    "attend_next",
    "prepare_keys",
]
