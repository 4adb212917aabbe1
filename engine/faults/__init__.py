"""Faults that are real, and recorded as the truth that a diagnosis may not read."""
