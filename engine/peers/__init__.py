"""Memory that the ranks of a group address together, and signals that say what is in it."""
