"""Each patch applies and names a test that exists; `make mutants` runs them."""

import pytest

from tests.mutations.run import ROOT, all_mutations, apply


def test_there_are_at_least_ten():
    assert len(all_mutations()) >= 10


@pytest.mark.parametrize("mutation", all_mutations(), ids=lambda m: m.path.stem)
def test_patch_applies_and_names_a_test(mutation):
    applied = apply(mutation, ROOT, check_only=True)
    assert applied.returncode == 0, applied.stderr
    path, *_, name = mutation.test.split("::")
    assert f"def {name.split('[')[0]}(" in (ROOT / path).read_text()
