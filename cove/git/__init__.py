"""Git repositories as archives of their files. Knows nothing of builds.

The ``git`` binary reads what strangers wrote, so it runs in a jail (``jail``): as nobody, in
namespaces of its own, where the only way out is a door (``door``) that the caller holds.
"""
