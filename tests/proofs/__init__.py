"""Whole services by Debian's own packages, as people run them: not part of the tests."""
