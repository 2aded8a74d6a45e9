"""The paper's reference code: its options and its parameters."""
