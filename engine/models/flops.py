"""Floating-point operations of training, by the two conventions of published figures.

Per token, forward and backward: 6 for each parameter that multiplies (Kaplan et al. 2020, appendix
B, with backward twice forward), and for attention 12 L w s where every token is counted as seeing
the whole sequence (Megatron-LM, MegaScale), less where it is counted as seeing what it does see:
half of it if that is all before it (L layers, w the width of all heads, s tokens in a sequence).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.models.config import ModelConfig


@dataclass(frozen=True, kw_only=True)
class TokenFlops:
    """Of one token of a sequence.

    Attributes:
        parameters: that multiply: all matrices but the table of embeddings, which is looked up.
        full: operations, attention counted whole.
        causal: operations, attention counted as far as it looks.
    """

    parameters: int
    full: float
    causal: float


def flops_of_token(config: ModelConfig, length: int) -> TokenFlops:
    """In sequences of ``length`` tokens."""
    width = config.hidden_size
    attention = 2 * width * (config.query_size + config.kv_size)
    mlp = 3 * width * config.intermediate_size
    parameters = config.n_layers * (attention + mlp) + width * config.vocab_size
    window = min(config.window or length, length)
    seen = window - window * window / (2 * length)  # mean over the sequence
    of_pair = 12.0 * config.n_layers * config.query_size
    return TokenFlops(
        parameters=parameters,
        full=6.0 * parameters + of_pair * length,
        causal=6.0 * parameters + of_pair * seen,
    )
