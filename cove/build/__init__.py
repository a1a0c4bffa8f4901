"""Builds: a Dockerfile becomes stages, stages become steps, steps become an image.

``dockerfile`` reads the language, ``expand`` its variables, ``ignore`` what a context leaves out;
``lint`` warns, ``graph`` decides what has to be done for a target, ``files`` which files are meant.
All of it is pure: ``engine/builds`` runs the steps.
"""
