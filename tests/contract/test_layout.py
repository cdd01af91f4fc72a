"""What the layout of the repository must keep."""

import operator
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_folder_operator_is_no_package():
    # It would shadow the standard library's module for everything that is run from the root.
    assert not (ROOT / "operator" / "__init__.py").exists()
    assert not operator.__file__.startswith(str(ROOT))
