"""Writable roots of machines: their directories below ``roots/``, made, measured and removed. It
mounts nothing and never follows a link.
"""

from cove.roots.copy import copy_uppers
from cove.roots.make import is_blank, prepare_root, usage
from cove.roots.remove import Remover, remove_root
from cove.roots.watch import Over, StorageWatch

__all__ = [
    "Over",
    "Remover",
    "StorageWatch",
    "copy_uppers",
    "is_blank",
    "prepare_root",
    "remove_root",
    "usage",
]
