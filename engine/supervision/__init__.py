"""The processes of a job that recovers from faults: its driver, and an executor on every host."""
