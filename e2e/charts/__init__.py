"""The chart: rendered, judged by an API server, installed."""
