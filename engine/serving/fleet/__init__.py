"""The manager's process of a fleet: requests in, steps to its instances, tokens out."""
