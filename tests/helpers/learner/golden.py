"""The folder of the golden cases, and those that several files of tests look at."""

from tests.helpers.root import ROOT

FOLDER = ROOT / "tests" / "golden"
DQN, STATISTICS = (
    FOLDER / f"{name}.npz" for name in ("dqn_nature_baseline", "stats_rainbow_impala_softmoe4")
)
