"""A whole job in one process: driver, executors, ranks, network and disks, and all that befalls
them, decided by a seed.

The driver and the executors are the objects that a live job runs; what is around them is a model:

- ``scenario``: what the seed decides beforehand: the job, and which faults come how often.
- ``network``: connections that deliver in order, late, or not at all.
- ``drivers``, ``executors``: the processes around the state machines, which crash and freeze.
- ``training``: ranks that step together, and a state that shows whatever went wrong with it.
- ``disk``: checkpoints, and what drivers leave to the next one.
- ``chaos``: the faults. ``invariants``: what must hold after each event.
- ``world``: all of it, first in chaos, then healed.

After the simulations of FoundationDB and TigerBeetle: chance, time and faults come from the seed
alone, so a failure can be had again.
"""
