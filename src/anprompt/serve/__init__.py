"""The HTTP service of `anprompt serve`: what a browser or a program asks, and how it is answered.

    request -> guard (host, token, size, time) -> pictures decoded -> queue -> one worker -> answers

`settings` are the bounds, `guard` turns away what must not come in, `forms` reads a request, `batching` joins
the pictures of many requests into one pass, `engine` computes, `metrics` counts, `app` puts them together.
Needs the extra `[serve]`.
"""
