"""Training that keeps running, as decisions: what a job's driver and its executors do next.

Nothing here has a clock, a thread or a socket: :mod:`engine.supervision` carries it out, and
:mod:`engine.simulation` plays it.
"""
