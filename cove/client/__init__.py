"""The client of the engine: verbs over a transport, in the daemon or outside. It prints nothing."""
