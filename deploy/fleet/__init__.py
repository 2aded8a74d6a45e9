"""Ray: the cluster, the supervisor, the roles it runs, and the weight store."""
