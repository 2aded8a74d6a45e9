"""`apexpert model` and `apexpert bench head`: what they print."""

import json

import pytest

from deploy.bench import head
from deploy.cli.main import main
from deploy.run.config import with_values
from deploy.run.presets import LAPTOP


def test_the_network_is_printed_with_flags_and_their_aliases(capsys):
    assert main(["model", "--preset", "paper-rainbow", "--experts", "8"]) == 0
    printed = capsys.readouterr().out
    for text in (
        "121 x 32 (per_conv)",
        "8, 512 hidden units each",
        "16 per expert, 128 in total",
        "50,208 per",
    ):
        assert text in printed
    assert "120.59 million, 123.35 million with noise" in printed


@pytest.mark.parametrize(
    ("flags", "line", "outputs"),
    [
        (["scalar"], "scalar, one per action", "6 x 1 "),
        (["c51", "--network.v-max", "5"], "c51, 51 atoms from -3 to 5 per action", "6 x 51 "),
        (["quantile"], "quantile, 51 per action", "6 x 51 "),
        (["quantile", "--network.num-quantiles", "32"], "quantile, 32 per action", "6 x 32 "),
    ],
)
def test_what_is_learned_of_an_action_is_named(flags, line, outputs, capsys):
    assert main(["model", "--preset", "laptop", "--network.values", *flags]) == 0
    printed = capsys.readouterr().out
    assert f"  values         {line}\n" in printed
    assert outputs in printed


def test_a_top_k_mixture_says_how_many_experts_a_token_has(capsys):
    flags = ["--preset", "laptop", "--head", "top_k_moe", "--network.selected-experts", "2"]
    assert main(["model", *flags]) == 0
    assert "  experts        4, k = 2 per token, 128 hidden units each\n" in capsys.readouterr().out
    assert main(["model", *flags, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["mixture"]["num_selected"] == 2
    assert main(["model", "--preset", "laptop"]) == 0
    assert "  experts        4, 128 hidden units each\n" in capsys.readouterr().out


def test_as_json_it_has_the_configuration_beside_it(capsys):
    assert main(["model", "--preset", "laptop", "--network.slim-experts", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["network"]["slim_experts"]
    assert printed["mixture"]["hidden_units"] == 128 // 4
    assert printed["parameters"] == sum(row["parameters"] for row in printed["layers"] if row["is_part"])


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["--network.encoder", "nope"], "--network.encoder 'nope'"),
        (["--game", "Pnog"], "Pnog"),
        (["--network.experts-number", "3"], "unknown flag"),
    ],
)
def test_a_wrong_value_is_one_line(argv, told, capsys):
    assert main(["model", *argv]) == 2
    printed = capsys.readouterr()
    assert told in printed.err
    assert printed.err.count("\n") == 1
    assert not printed.out


@pytest.mark.parametrize("kind", ["soft_moe", "top_k_moe"])
def test_the_head_has_as_many_operators_for_many_experts_as_for_two(kind, capfd):
    said = []
    config = with_values(LAPTOP, learner__batch_size=4, network__head=kind)
    result = head.run(
        config, seconds=0.0, experts=(2, 16), encoders=("nature",), least_calls=2, report=said.append
    )
    assert capfd.readouterr() == ("", ""), "the profiler prints nothing"
    assert said[0].startswith("measuring 2 networks"), "before the first of them, which may be slow"
    assert [line.partition(": head")[0] for line in said[1:]] == [
        "1 of 2: nature, 2 experts", "2 of 2: nature, 16 experts"
    ]  # fmt: skip
    few, many = result["rows"]
    assert few["head_operators"] == many["head_operators"]
    for row in result["rows"]:
        assert row["forward_share"] == row["forward_head_seconds"] / row["forward_network_seconds"]
    assert head.table(result).count("\n| nature |") == 2


def test_a_head_without_experts_is_refused(capsys):
    assert main(["bench", "head", "--network.head", "dense"]) != 0
    assert "--network.head dense" in capsys.readouterr().err
