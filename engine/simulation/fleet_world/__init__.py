"""A fleet of instances that die, stall and come back, simulated whole but for its arithmetic."""
