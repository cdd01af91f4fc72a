"""Tests on a real cluster, and what they share. A package, so that its folder `operator` is none of that name."""
