"""The command line: commands on a Terminal, over a Client. It prints, and decides nothing else.

Imports nothing: ``cove.cli.start`` and ``spawn`` are on the path of the first command.
"""
