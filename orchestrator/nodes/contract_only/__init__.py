"""Nodes that know only the published contract, as those of 2.x."""
