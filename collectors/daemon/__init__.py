"""The host daemon: one process per user, host and store that collects, and answers SQL."""
