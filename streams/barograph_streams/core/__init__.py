"""Every decision of the jobs. No I/O, no clock, no chance, and nothing of Flink."""
