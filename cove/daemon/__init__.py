"""The resident process: the front's socket, HTTP, and the engine between them. It decides nothing
about machines.
"""
