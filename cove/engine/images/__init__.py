"""The verbs on images, and images made into what machines stand on: bootstrap, root disks."""
