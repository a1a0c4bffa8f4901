"""Variables in a Dockerfile: ``$name``, ``${name}`` and all modifiers, quotes, escapes. Pure.

A value that came in is never looked at again, so nothing can expand for ever, and how long a text
may become is limited.
"""
