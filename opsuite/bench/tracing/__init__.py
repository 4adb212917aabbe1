"""The parts of ``opsuite bench store``: one file each, and the workers that they start."""
