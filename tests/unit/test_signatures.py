import inspect

from toolkit.binding import defaults, parameters
from toolkit.data import Data


class Base(Data):
    def __init__(self, *, size: int, seed: int = 1) -> None:
        super().__init__()


def test_options_that_are_handed_on_are_named():
    class Derived(Base):
        def __init__(self, *, name: str = "x", seed: int = 2, **options):
            super().__init__(seed=seed, **options)

    assert str(inspect.signature(Derived)) == "(*, size: int, name: str = 'x', seed: int = 2)"
    assert defaults(Derived) == {"name": "x", "seed": 2}


def test_positional_options_come_before_required_ones_by_name():
    class Derived(Data):
        def __init__(self, path: str = "x", *, size: int):
            super().__init__()

    assert str(inspect.signature(Derived)) == "(path: str = 'x', *, size: int)"


def test_a_name_for_type_checkers_stops_no_import():
    class Derived(Base):
        def __init__(self, *, kind: "OnlyForTypeCheckers" = 0, **options):  # noqa: F821
            super().__init__(**options)

    assert list(parameters(Derived)) == ["size", "kind", "seed"]
    assert parameters(Derived)["size"].annotation is int
