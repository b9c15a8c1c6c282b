"""One thread for every library, so that tests are steady beside other work; no deadlines."""

import os

for _variable in (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMBA_NUM_THREADS",
):
    os.environ.setdefault(_variable, "1")
os.environ.setdefault("MPLBACKEND", "Agg")
# Of whoever started the tests, or of xdist: tables would be as wide as that says.
os.environ.pop("COLUMNS", None)

import pytest  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

# The first call of a kernel may compile it; that is no sign of a slow test.
settings.register_profile(
    "somaseg", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.register_profile("thorough", settings.get_profile("somaseg"), max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "somaseg"))


@pytest.fixture(autouse=True)
def _choices_end_with_a_test():
    """`--device`, `--engine` and the like stand in the environment until the process ends."""
    before = {name: value for name, value in os.environ.items() if name.startswith("SOMASEG_")}
    yield
    for name in [name for name in os.environ if name.startswith("SOMASEG_")]:
        del os.environ[name]
    os.environ.update(before)
