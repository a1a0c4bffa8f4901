"""What machines were, kept: snapshots, restores, forks, and what lies between two of them."""
