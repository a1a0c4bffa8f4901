"""The room that knows all above: every verb on machines, images and what is kept of them, a room a
family. ``engine`` is its door, ``calls`` what passes it, ``home`` what all of them stand on.
"""
