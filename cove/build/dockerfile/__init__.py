"""The Dockerfile language: text in, instructions and stages as frozen data out. Pure.

Nothing here knows a variable's value: what is expanded stays as it was written.
"""
