"""Commands on whole replays: list, verify, export, import."""
