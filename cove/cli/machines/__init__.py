"""Commands on machines."""
