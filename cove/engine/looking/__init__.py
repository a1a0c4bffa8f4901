"""The verbs that look and change nothing: lists, logs, events, stats, top, plan."""
