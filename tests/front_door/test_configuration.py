import pytest

from apexpert import ApexpertError, preset
from deploy.run.config import with_values
from deploy.run.presets import LAPTOP


def test_fields_go_by_their_names() -> None:
    config = preset("laptop", game="Pong", seed=3, replay__gamma=1, urls=("redis://a:1",))
    assert config == with_values(
        LAPTOP, environment__game="Pong", run__seed=3, replay__gamma=1.0, replay__urls=("redis://a:1",)
    )
    assert preset() == LAPTOP
    dense = preset("laptop", head="dense")
    assert not dense.network.residual, "as on the command line, what does not fit another head is left out"


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"gmae": "Pong"}, "gmae: no such field of the configuration; did you mean game"),
        (
            {"replay__shardz": 2},
            "replay__shardz: no such field of the configuration; did you mean replay__",
        ),
        (
            {"precision": "float32"},
            "precision: several sections have this field: actors__precision or",
        ),
        ({"n_step": 0}, "--replay.n-step 0: must be 1 to 255"),
        ({"n_step": "3"}, "--replay.n-step) is '3'; allowed is a whole number"),
        ({"values": "c52"}, "--network.values) is 'c52'; allowed is one of scalar"),
    ],
)
def test_a_mistake_is_one_line(changes: dict[str, object], part: str) -> None:
    with pytest.raises(ApexpertError) as caught:
        preset("laptop", **changes)
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_preset_is_named() -> None:
    with pytest.raises(ApexpertError, match="--preset lapto: unknown preset") as caught:
        preset("lapto")
    assert caught.value.flag == "--preset"
