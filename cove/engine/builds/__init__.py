"""Builds: the steps of a Dockerfile as machines and visits; what they made, as layers."""
