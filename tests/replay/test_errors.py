"""The tree of errors at the top of replay/errors.py."""

from replay import errors


def test_the_tree_shows_every_error_below_its_base() -> None:
    lines = (errors.__doc__ or "").splitlines()[2:]
    shown = [((len(line) - len(line.lstrip())) // 2, line.split()[0]) for line in lines if line]
    assert shown[0] == (0, "ReplayError")
    bases = {name: depth for depth, name in shown}
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    for kind in kinds:
        if issubclass(kind, errors.ReplayError):
            below = kind.__mro__[1]
            assert bases[kind.__name__] == bases.get(below.__name__, -1) + 1
