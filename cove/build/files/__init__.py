"""The files that COPY, ADD and mounts take: which are meant, what they will be called, and what the
cache knows them by. Pure: what there is comes as a list.
"""
