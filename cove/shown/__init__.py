"""What commands and Docker's API show alike, in Docker's words: documents, tables, templates,
filters, sizes and times. Pure: nothing here asks a daemon or a terminal.
"""
