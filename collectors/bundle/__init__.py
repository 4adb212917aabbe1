"""A run in one file, to take to another machine."""
