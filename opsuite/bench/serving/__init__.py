"""What ``opsuite bench serve`` is made of: servers, loads, and what came of them."""
