"""The comparison of the demo, which is everybody's: `simulator.demo.measure`."""

from simulator.demo.measure import STEADY_AFTER, Arrived, Comparison, Shown, compare, quantile

__all__ = ["STEADY_AFTER", "Arrived", "Comparison", "Shown", "compare", "quantile"]
