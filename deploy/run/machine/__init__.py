"""What a machine has of what training needs."""
