"""Docker's Engine API over this engine. Its names (``HostConfig``, CamelCase) end here.

``routes`` is the table of all endpoints; each family of resources has a file of handlers, which are
synchronous, take an ``Ask`` and give an ``Answer``, a ``Stream``, ``Piped`` bytes or a ``Hijack``;
``server`` alone knows HTTP. ``spec`` and ``shapes`` translate, purely.
"""
