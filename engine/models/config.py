"""The shape of a model."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from collectors.configuration import Config


class ModelConfig(Config):
    """A Llama-family decoder: RMSNorm, rotary positions, grouped-query attention, SwiGLU."""

    vocab_size: int = Field(default=4096, ge=258, le=1_000_000, description="known tokens")
    hidden_size: int = Field(default=256, ge=8, le=65536, description="residual stream's width")
    n_layers: int = Field(default=4, ge=1, le=1024, description="decoder blocks")
    n_heads: int = Field(default=8, ge=1, le=1024, description="query heads")
    n_kv_heads: int = Field(default=4, ge=1, le=1024, description="key-value heads")
    intermediate_size: int = Field(
        default=704, ge=8, le=1_000_000, description="width inside the MLP"
    )
    head_size: int = Field(
        default=0, ge=0, le=65536, description="width of a head; 0: hidden_size / n_heads"
    )
    qkv_bias: bool = Field(default=False, description="queries, keys, values have a bias (Qwen 2)")
    qk_norm: bool = Field(default=False, description="queries and keys are normalised (Qwen 3)")
    max_seq_len: int = Field(default=1024, ge=8, le=4_194_304, description="longest context")
    rope_theta: float = Field(default=10000.0, gt=0, description="rotary base")
    norm_eps: float = Field(default=1e-5, gt=0, lt=1, description="of RMSNorm")
    end_token: int = Field(default=0, ge=0, description="id of the token that ends a document")
    tie_embeddings: bool = Field(default=False, description="one matrix for input and output")
    window: int = Field(
        default=0, ge=0, le=4_194_304, description="tokens that attention looks back; 0: all"
    )
    parallel_block: bool = Field(
        default=False, description="attention and MLP side by side, after one norm (MegaScale)"
    )

    @model_validator(mode="after")
    def _shapes_fit(self) -> Self:
        if not self.head_size and self.hidden_size % self.n_heads:
            raise ValueError("hidden_size must be a multiple of n_heads, or head_size be set")
        if self.end_token >= self.vocab_size:
            raise ValueError("end_token must be a token: less than vocab_size")
        if self.n_heads % self.n_kv_heads:
            raise ValueError("n_heads must be a multiple of n_kv_heads")
        if self.head_dim % 2:
            raise ValueError("a head's width must be even: rotary positions pair up")
        return self

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.head_size or self.hidden_size // self.n_heads

    @property
    def query_size(self) -> int:
        """Width of all query heads together."""
        return self.n_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Width of all key heads together, and of all value heads."""
        return self.n_kv_heads * self.head_dim

    @property
    def kv_values(self) -> int:
        """Numbers in the keys and values of one token, over all layers."""
        return 2 * self.n_layers * self.kv_size
