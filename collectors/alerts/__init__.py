"""Alerts: SQL that returns rows, and whom to tell about them."""
