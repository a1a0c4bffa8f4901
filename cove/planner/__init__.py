"""(spec, image config, facts, place) -> plan: what isolates a machine, and why.

Pure: no I/O, no clock, no environment. What a host can do is an argument (``Facts``), where the
machine's files are is another (``Place``).
"""

from cove.planner.container import plan_ahead, plan_machine
from cove.planner.place import BindSource, Place
from cove.planner.process import argv_of, plan_exec

__all__ = ["BindSource", "Place", "argv_of", "plan_ahead", "plan_exec", "plan_machine"]
