"""Benchmarks: one registry, one harness, one result schema."""
