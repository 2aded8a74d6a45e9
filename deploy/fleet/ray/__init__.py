"""Ray itself: the cluster, its keeper process, its nodes."""
