"""Serving in simulated time: the schedulers that decide for a live engine, priced iterations."""
