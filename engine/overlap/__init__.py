"""Tensor-parallel operators and the layers made of them."""
