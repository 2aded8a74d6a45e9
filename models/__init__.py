"""Networks: encoders, Soft MoE and dense heads, noisy layers, distributional outputs (torch only)."""
