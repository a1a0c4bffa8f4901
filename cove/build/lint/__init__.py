"""Warnings about Dockerfiles, by the names that BuildKit's checks have. Pure.

``rules`` is the list, ``config`` what ``# check=`` switches, ``checks`` what can be seen without
knowing a variable; the rest is seen where ``graph`` expands them.
"""
