"""The laws of attention modules; those in `IN_ATTENTION` are laws of scoring functions too, in a plain attention."""

from __future__ import annotations

from collections.abc import Mapping

from attnbench.contract import causality, compilers, masks, options, outputs, training
from attnbench.contract.harness import Law

IN_ATTENTION: tuple[Law, ...] = (
    outputs.runs, outputs.widths, outputs.shapes, outputs.dtypes, outputs.autocast, outputs.rows, outputs.need_weights,
    outputs.extremes, outputs.permutation, outputs.examples,
    masks.empty_rows, masks.nothing, masks.masked_keys, masks.masked_nan, masks.padding, masks.bad_masks, masks.misfits,
    causality.causal, causality.later, causality.prefix, causality.prepared, causality.decoding,
    training.gradients, training.second_derivatives, training.forward_mode, training.parameters,
    training.inputs_unwritten, training.layout, training.seed, training.state_dict, training.copies,
    compilers.compiles, compilers.exports, compilers.meta,
)  # fmt: skip
LAWS: tuple[Law, ...] = (
    *IN_ATTENTION, options.options, outputs.mixing, masks.prefix_masks, training.penalty, outputs.scorings
)  # fmt: skip
#: Laws that say nothing new once another is broken: they are not tried then.
AFTER: Mapping[str, str] = {
    "empty_rows": "rows",
    "masked_keys": "rows",
    "masked_nan": "masked_keys",
    "padding": "masked_keys",
    "later": "masked_keys",
    "prefix": "causal",
    "prepared": "prefix",
    "decoding": "prefix",
    "second_derivatives": "gradients",
    "forward_mode": "gradients",
    "scorings": "need_weights",
    "options": "decoding",
}
