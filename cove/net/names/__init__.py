"""The name server of all networks: a process of its own, which the daemon starts and tells who is
where, and which goes on answering when the daemon is gone.

It listens on sockets that it is handed, whose other end is a namespace of the network's own
(``net.doors``); it asks others in the host's. It decides nothing about networks, and what it reads
of machines and of other servers is bounded and believed to be no more than bytes.
"""
