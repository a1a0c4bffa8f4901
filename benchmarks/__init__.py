"""cove beside the installed peers, interleaved in one run; ratios, never verdicts."""
