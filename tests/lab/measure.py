"""The comparison of the demo, which is everybody's: `agent.demo.measure`."""

from agent.demo.measure import STEADY_AFTER, Arrived, Comparison, Shown, compare, quantile

__all__ = ["STEADY_AFTER", "Arrived", "Comparison", "Shown", "compare", "quantile"]
