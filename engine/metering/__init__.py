"""What each step costs the process that does it."""
