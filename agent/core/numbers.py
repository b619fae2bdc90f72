"""The largest number that every reader of the records keeps exact."""

EXACT_MAX = 2**53 - 1
"""JSON's numbers are doubles for many readers (RFC 8259, 6)."""
