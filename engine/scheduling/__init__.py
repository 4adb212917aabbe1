"""Which requests run in the next iteration, and whose keys and values stay on the device.

Pure decisions: no clock, no chance, no I/O, no torch. A live engine and the simulator run the same
objects.
"""
