"""Commands on images and registries."""
