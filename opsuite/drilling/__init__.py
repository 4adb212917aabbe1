"""Drills: a job is struck by real faults, and what came of it is compared with what should."""
