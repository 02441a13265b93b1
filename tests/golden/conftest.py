"""Where golden values are compared: on the CPU, and on a GPU where there is one."""

from __future__ import annotations

import pytest

from pipeline.model.precision import set_float32


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    set_float32(tf32=False)
    return str(request.param)
