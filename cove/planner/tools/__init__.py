"""The plans of the host's own programs that read or write what strangers have made."""
