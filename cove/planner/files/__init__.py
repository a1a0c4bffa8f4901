"""What a machine sees of files: its root, mounts, devices, and copies in and out."""
