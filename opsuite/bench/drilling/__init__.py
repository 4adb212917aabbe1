"""Drills: faults that a job must survive, simulated and live."""
