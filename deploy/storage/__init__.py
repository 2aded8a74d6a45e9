"""Checkpoints kept elsewhere: copied to an object store or another file system, and resumed from there."""
