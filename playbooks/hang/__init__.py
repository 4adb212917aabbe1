"""When a run has stopped stepping, and who never came."""
