"""Schedulers: which requests run in the next iteration. Pure decisions: no clock, I/O or torch."""
