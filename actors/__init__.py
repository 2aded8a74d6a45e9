"""Acting: environments, exploration, the policy on the CPU, the actor's loop and evaluation."""
