"""Which instances compute which requests together: elastic sequence parallelism (LoongServe, arXiv
2404.09526).

Pure decisions: no clock, no chance, no I/O, no torch. A live fleet and the simulator run the same
objects.
"""
