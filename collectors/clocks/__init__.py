"""The clocks of several hosts, against one another."""
