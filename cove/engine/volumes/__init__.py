"""Volumes: their verbs, which of them a machine has, and what is in them at first."""
