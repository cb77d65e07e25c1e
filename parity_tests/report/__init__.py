"""The parity report: what is compared, what it may differ by, and how it is shown."""
