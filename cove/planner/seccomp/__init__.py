"""Which system calls a machine may make, as filters."""
