"""Serving: completions over HTTP from a model directory, by continuous batching.

One request, top to bottom: ``api`` (HTTP) -> ``completions`` (what OpenAI's fields ask for) ->
``streams`` (asyncio side of the seam) -> ``engine`` (a thread: policy, runner, sampling) and back.
Nothing but the frozen messages of ``request`` crosses the seam.
"""
