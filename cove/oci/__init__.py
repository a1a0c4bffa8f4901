"""References, digests, manifests, configs and archives of images, as Docker and OCI write them.

Knows nothing of cove but its errors; opens only the archives it is given.
"""
