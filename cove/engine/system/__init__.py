"""The daemon, its host and its disk: info, df and what can be given back, check and repair."""
