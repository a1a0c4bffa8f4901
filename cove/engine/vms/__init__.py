"""Virtual machines: emulators in their jail, templates, clones, what guests say, kernels."""
