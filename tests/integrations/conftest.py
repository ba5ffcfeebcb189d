from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest
from clients import Connect
from ssegateway import Gateway


@pytest.fixture
def connect(request: pytest.FixtureRequest) -> Iterator[Connect]:
    """Creates clients of either kind."""
    kind = getattr(request, "param", Gateway)
    with ExitStack() as stack:
        yield lambda *args, **kwargs: stack.enter_context(closing(kind(*args, **kwargs)))
