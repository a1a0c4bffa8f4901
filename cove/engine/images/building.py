"""``build``: a thin call into ``engine.builds``, which is loaded when somebody builds: the language
of Dockerfiles takes longer to import than most commands to run.
"""

from __future__ import annotations

from collections.abc import Iterator

from cove.engine.calls import Call
from cove.engine.calls.build import BuildStep
from cove.engine.home import Home


def image_build(home: Home, call: Call) -> Iterator[BuildStep]:
    from cove.engine.builds import verb

    return verb.image_build(home, call)
