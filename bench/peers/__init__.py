"""The contenders, each a process of its own: ``python -m bench.peers.NAME``; ``protocol`` frames them."""
