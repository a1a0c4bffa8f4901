"""Images in the store: unpacking layers, importing and loading, the built-in ``host`` image, names.

Nothing of an image is executed or parsed here but tar headers in a confined process and JSON; what
a machine does with an image is the planner's.
"""
