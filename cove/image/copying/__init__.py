"""Images from one place to another, past the store: registries, layout directories, archives."""
