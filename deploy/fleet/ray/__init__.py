"""Ray itself: the cluster, the process that keeps it, its nodes."""
