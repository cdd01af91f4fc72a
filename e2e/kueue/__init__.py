"""Jobs in queues of the real Kueue's."""
