"""The command line: commands on a Terminal, over a Client. It prints, and decides nothing else.

Imports nothing: ``cove.cli.start`` is on the path of the first command.
"""
