"""The comparison of samples with updates, from `simulator.demo.measure`."""

from simulator.demo.measure import STEADY_AFTER, Arrived, Comparison, Shown, compare, quantile

__all__ = ["STEADY_AFTER", "Arrived", "Comparison", "Shown", "compare", "quantile"]
