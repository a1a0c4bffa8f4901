"""Writable roots of machines: their directories below roots/, made, measured and removed. It
mounts nothing and never follows a link.
"""
