import pytest

from tests.postfix.instance import need_postfix


@pytest.fixture(autouse=True, scope="package")
def postfix_is_here() -> None:
    need_postfix()
