import threading
import time

import pytest

from somaseg.masks.parallel import available_workers, map_images


@pytest.mark.parametrize("workers", [None, 1, 2, 7])
def test_results_come_in_the_order_of_the_items(workers):
    def slow_first(k):
        time.sleep(0.02 if k == 0 else 0)
        return k * k

    assert map_images(slow_first, range(20), workers) == [k * k for k in range(20)]
    assert map_images(slow_first, (k for k in range(3)), workers) == [0, 1, 4]
    assert map_images(slow_first, [], workers) == []


@pytest.mark.parametrize("workers", [1, 2])
def test_the_first_exception_comes_through_and_the_rest_is_left(workers):
    begun = []

    def fail(k):
        begun.append(k)
        time.sleep(0.001)
        if k in (3, 5):
            raise KeyError(f"image {k}")
        return k

    with pytest.raises(KeyError, match="image 3"):
        map_images(fail, range(500), workers)
    assert len(begun) < 500


def test_two_threads_work_at_once():
    meeting = threading.Barrier(2, timeout=20)
    assert sorted(map_images(lambda _: meeting.wait(), range(2), 2)) == [0, 1]


def test_workers():
    assert available_workers() >= 1
    with pytest.raises(ValueError, match="workers are at least 1, not 0"):
        map_images(str, [1], 0)
