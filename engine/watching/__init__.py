"""Watching trainers that are not ours: hooks into torch that are taken out again."""
