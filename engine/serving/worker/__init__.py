"""The process that computes: a scheduler, a model, and what its requests have so far.

``engine`` is deterministic: the same calls with the same times give the same. ``loop`` drives it by
the clock, the connection to the API and the model; ``life`` records what becomes of requests.
"""
