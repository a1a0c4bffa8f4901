"""Links, rules and sockets of the host. No policy."""
