from pathlib import Path

# The project's folder. Asked for here alone, so that a test may move to another room.
ROOT = Path(__file__).parents[2]
