"""Specs: what the user asked for, as frozen data, and the parsers of what was typed. Pure."""
