"""opsuite: one terminal for large-model runs."""

__version__ = "0.1.0"
