"""Builds the parts of a release: `make release`."""
