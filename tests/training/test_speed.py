import numpy as np
import pytest

from pipeline.training.speed import Speed, StepTimer


def test_the_first_call_includes_the_compilation_and_is_not_counted():
    timer = StepTimer()
    assert timer.steps_per_call() == 1
    timer.add(1, 30.0, np.array([[30.0, 9.0, 9.0]]))
    assert timer.read(timer.waits_s) == Speed()
    timer.add(1, 0.25, np.array([[0.25, 0.0, 0.0]]))
    assert timer.steps_per_second == 4


def test_calls_approach_a_second_and_at_most_double():
    timer = StepTimer()
    timer.add(1, 30.0)
    # Two steps are fast, since their batches were there; reading takes half a second a batch.
    seen = []
    for _ in range(4):
        steps = timer.steps_per_call()
        seen.append(steps)
        timer.add(steps, sum(0.01 if sum(seen) <= 3 else 0.5 for _ in range(steps)))
    assert seen == [1, 2, 4, 2]
    # Fast steps get there in the end.
    for _ in range(12):
        timer.add(1, 0.01)
    assert timer.steps_per_call() == 100


def test_one_fast_call_does_not_make_the_next_one_long():
    timer = StepTimer()
    for seconds in (30.0, 0.5, 0.5, 0.5, 0.001):
        timer.add(1, seconds)
    assert timer.steps_per_call() == 4


def test_a_row_has_its_rate_its_wait_and_the_quantiles_of_its_steps():
    timer = StepTimer()
    timer.add(1, 30.0)
    times = np.random.default_rng(0).uniform(0.1, 0.3, 40)
    for part in (times[:10], times[10:]):
        timer.add(len(part), part.sum(), np.stack([part, 0.1 * part, 0.2 * part], axis=1))
    np.testing.assert_allclose(timer.waits_s, [0.1 * times.sum(), 0.2 * times.sum()])
    speed = timer.read(np.array([0.5, 0.8]))
    assert speed.steps_per_second == pytest.approx(40 / times.sum())
    assert speed.input_wait_fraction == pytest.approx(0.5 / times.sum())
    assert speed.all_reduce_wait_s == pytest.approx(0.8 / 40)
    assert speed.step_median_s == pytest.approx(np.median(times))
    assert speed.step_p95_s == pytest.approx(np.percentile(times, 95))
    timer.reset()
    assert timer.read(timer.waits_s) == Speed()
