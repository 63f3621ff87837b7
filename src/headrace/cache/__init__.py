"""Logical KV cache: which blocks hold what. Block ids only, no arrays."""
