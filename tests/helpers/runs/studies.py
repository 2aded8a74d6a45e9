"""A small study, as a file."""

from pathlib import Path

from deploy.study.file import StudyFile

STUDY = """
[study]
name = "trial"
question = "Which of two?"
hypotheses = ["The first."]
primary_metric = "final return"
stop_rule = "None."
"""
ARMS = """
[arms.dense.network]
head = "dense"
[arms.soft-2.network]
num_experts = 2
"""
SIZES = """
[sizes.full]
games = ["Pong", "Boxing"]
seeds = [1, 2]
total_env_steps = 30000
[sizes.lite]
games = ["Pong"]
seeds = [7]
arms = ["dense"]
total_env_steps = 10000
"""


def read(tmp_path: Path, text: str) -> StudyFile:
    path = tmp_path / "trial.toml"
    path.write_text(text)
    return StudyFile.read(str(path))
