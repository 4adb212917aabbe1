"""A client of OpenAI-compatible servers that sends at given times, whatever the server does."""
