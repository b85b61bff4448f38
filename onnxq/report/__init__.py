"""Results as plain values for machines and as tables for people."""
