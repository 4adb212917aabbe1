"""Decoder-only language models of the Llama family, their files and their tokenizers."""
