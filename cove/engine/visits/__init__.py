"""Files in and out of machines: cp, export, diff, commit. Each is a visit from outside."""
