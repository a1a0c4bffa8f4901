"""A machine's life: the verbs that change it, its start and end, its monitor, why it ended."""
