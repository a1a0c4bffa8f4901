"""Networks: their verbs, and the places of machines on them."""
