"""Commands for Ray clusters: jobs, runs found through their Ray, checks of the nodes."""
