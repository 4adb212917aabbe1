"""Training that keeps running: a driver for the job, an executor on every host."""
