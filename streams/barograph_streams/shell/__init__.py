"""The shell on Apache Flink: sources, state and sinks. It decides nothing."""
