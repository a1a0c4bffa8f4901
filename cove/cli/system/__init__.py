"""Commands on this cove and its host."""
