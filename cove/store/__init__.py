"""The state directory: SQLite records, blobs, the lock and garbage collection. It knows paths
and records, never processes, mounts or policy.
"""
