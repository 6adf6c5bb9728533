"""What the experiments share: trials, probes, their settings, tables and figures."""
