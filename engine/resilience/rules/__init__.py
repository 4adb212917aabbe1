"""What counts as a fault of a running attempt: one rule a file, all asked by the watch."""
