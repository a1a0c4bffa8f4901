"""Plans as data: ops (a class per row of ``init/ops.def``), their flags, wire and text, and facts.

Pure: nothing here does I/O, asks the host, or decides what belongs in a plan.
"""
