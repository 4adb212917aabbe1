"""Diagnoses: functions from what the store holds to findings."""
