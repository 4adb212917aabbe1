"""The process that clients speak to: HTTP in, requests to the engine, text out."""
