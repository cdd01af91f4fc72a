"""Chaos: several jobs side by side on a real cluster, while all that they need dies, hangs and comes back."""
