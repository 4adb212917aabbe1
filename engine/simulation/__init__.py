"""Simulated time: the same decisions as in a live system, in thousands of seeded runs."""
