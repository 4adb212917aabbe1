"""Talking to a model behind OpenAI's API, in a terminal."""
