"""The parts of ``opsuite bench watching``."""
