"""Gathers what `barograph doctor` judges. It changes nothing."""
