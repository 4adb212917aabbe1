"""Ways out: runs in the formats of other tools."""
