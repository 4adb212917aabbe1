"""The process that says who never came when a watched run stops stepping: one a host and run."""
