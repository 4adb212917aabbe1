"""Fleets of elastic instances under a simulated clock, and their baselines."""
