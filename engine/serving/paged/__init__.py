"""The mechanism of serving: keys and values in blocks, mixed batches, choosing tokens.

What runs next is decided elsewhere (:mod:`engine.scheduling`); here it is done. ``runner`` takes an
iteration and gives scores, ``cache`` knows whose keys and values lie where, ``sampler`` chooses.
"""
