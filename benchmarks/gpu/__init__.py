"""The parts of a session on a GPU."""
