"""What a client says, handed to the functions that do it: a class for each family of verbs, of
which ``engine.Engine`` is made. A verb is ``method(params, call)``; no logic of its own lives here.
"""
