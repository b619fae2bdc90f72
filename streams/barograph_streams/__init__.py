"""Stream jobs on the topics of Barograph: a pure core, and a shell that runs it on Apache Flink."""

__version__ = "0.1.0"
