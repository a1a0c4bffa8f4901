"""The room that knows all above: machines and their lives, one file a verb family."""
