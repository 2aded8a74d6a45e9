"""Every arm and every control by name: what it changes in a `NetworkConfig`; docs/arms.md explains them."""

from typing import Any

BALANCING = {"router_noise": 1.0, "importance_loss_weight": 0.01, "load_loss_weight": 0.01}

ARMS: dict[str, dict[str, Any]] = {
    "dense": {"head": "dense"},
    "dense, parameter-matched": {"head": "dense", "scale_dense": True},
    "soft moe": {"head": "soft_moe"},
    "soft moe, one expert": {"num_experts": 1},
    "soft moe, scaled single expert": {"num_experts": 1, "expert_width_scale": 4.0},
    "soft moe, slim experts": {"slim_experts": True},
    "soft moe, more slots": {"capacity_factor": 2.0},
    "soft moe, normalised": {"normalize": True},
    "soft moe, normalised, sharper": {"normalize": True, "normalize_scale": 16.0},
    "soft moe, residual": {"residual": True},
    "soft moe, block": {"residual": True, "token_norm": True},
    "top 1, block": {"head": "top_k_moe", "residual": True, "token_norm": True},
    "soft moe, centered kernels": {"centered_kernels": True},
    "soft moe, wide encoder": {"encoder_width_scale": 2.0},
    "soft moe, per feature map": {"tokens": "per_feature_map"},
    "soft moe, per sample": {"tokens": "per_sample"},
    "soft moe, per patch": {"tokens": "per_patch", "patch_size": 2},
    "soft moe, per wide patch": {"tokens": "per_patch", "patch_size": 2, "patch_width": 24},
    "soft moe, per average patch": {"tokens": "per_patch", "patch_size": 2, "patch_embedding": "average"},
    "soft moe, mean": {"combine": "mean"},
    "soft moe, sum": {"combine": "sum"},
    "top 1": {"head": "top_k_moe"},
    "top 2": {"head": "top_k_moe", "selected_experts": 2, "capacity_factor": 2.0},
    "top 1, balanced": {"head": "top_k_moe", "entropy_loss_weight": 0.01, **BALANCING},
    "top 1, per sample": {"head": "top_k_moe", "tokens": "per_sample"},
    "top 1, per feature map": {"head": "top_k_moe", "tokens": "per_feature_map"},
    "top 1, per patch": {"head": "top_k_moe", "tokens": "per_patch", "patch_size": 2},
    "top 1, mean": {"head": "top_k_moe", "combine": "mean"},
    "dense, mean": {"head": "dense", "combine": "mean"},
    "dense, sum": {"head": "dense", "combine": "sum"},
    "pooled, mean": {"head": "pooled", "combine": "mean"},
    "pooled, sum": {"head": "pooled", "combine": "sum"},
    "pooled, flattened": {"head": "pooled"},
    "soft moe, few slots": {"capacity_factor": 0.1},
    "soft moe, fixed phi": {"phi": "fixed"},
    "soft moe, redrawn phi": {"phi": "redrawn"},
    "soft moe, redrawn phi, normalised": {"phi": "redrawn", "normalize": True},
    "soft moe, shuffled features": {"shuffle": "features", "tokens": "per_conv"},
    "soft moe, shuffled tokens": {"shuffle": "tokens", "tokens": "per_conv"},
    "top 1, shuffled tokens": {"head": "top_k_moe", "shuffle": "tokens", "tokens": "per_conv"},
    "expert choice": {"head": "expert_choice"},
    "expert choice, more slots": {"head": "expert_choice", "capacity_factor": 2.0},
    "expert choice, per sample": {"head": "expert_choice", "tokens": "per_sample"},
    "soft moe, sparse": {"sparsity": 0.2},
    "dense, pruned": {
        "head": "dense",
        "sparsity": 0.95,
        "sparsify": "pruning",
        "sparsity_distribution": "uniform",
    },
}

DRAWN = [name for name, arm in ARMS.items() if arm.get("phi") == "redrawn" or arm.get("shuffle") == "tokens"]
"""Arms of which every pass draws something, in evaluation too."""

AGENTS: dict[str, dict[str, Any]] = {
    "rainbow": {"values": "c51", "dueling": True, "noisy": True},
    "dqn": {"values": "scalar", "dueling": False, "noisy": False},
}
