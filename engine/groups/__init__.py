"""Groups of ranks that communicate, and how they come together."""
