"""Builds: a Dockerfile becomes stages, stages become steps, steps become an image.

``dockerfile`` reads the language, ``expand`` its variables, ``ignore`` what a context leaves out;
``lint`` warns, ``graph`` decides what has to be done for a target. All of these are pure. Running
the steps comes later, through a runner that is passed in.
"""
