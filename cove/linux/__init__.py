"""Thin access to the kernel: facts, cgroups, descriptors, audit and kernel messages. No policy,
no records.
"""
