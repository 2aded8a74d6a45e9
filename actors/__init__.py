"""Acting: environments, exploration, the CPU policy, the actor loop and evaluation."""
