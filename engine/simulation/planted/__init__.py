"""Bugs planted into the driver and the executors, to see whether the simulation finds them.

Each is the shipped class with one thing wrong, as somebody might have written it. ``bugs`` lists
them all.
"""
