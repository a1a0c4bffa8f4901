"""``build`` and ``builder``."""
