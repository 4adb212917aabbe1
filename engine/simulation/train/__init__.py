"""A training job in simulated time: the driver that ships, failures, and what each step costs."""
