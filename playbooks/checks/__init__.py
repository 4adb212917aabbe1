"""Checks of a machine, before or apart from any run."""
