"""Networks as programs for nf_tables, addresses and resolvers."""
