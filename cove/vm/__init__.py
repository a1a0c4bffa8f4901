"""Virtual machines: guest kernels, the initrd, and whether KVM works here.

It starts nothing of a user's machine; QEMU's command line is the planner's.
"""
