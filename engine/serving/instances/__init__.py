"""Elastic instances: workers that compute iterations together, in groups that change each time."""
