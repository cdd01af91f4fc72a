"""What the tests share: the cluster by kubectl, its engine, servers on the host."""
