"""The commands: parse, compose the floors below, print."""
