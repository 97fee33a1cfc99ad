import pytest

from pipeline.report.axis import number, percent, span, ticks


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 100, [0, 20, 40, 60, 80, 100]),
        (0, 2700, [0, 1000, 2000]),
        (0.12, 0.31, [0.15, 0.2, 0.25, 0.3]),
        (-1, 1, [-1, -0.5, 0, 0.5, 1]),
        (0, 0.003, [0, 0.001, 0.002, 0.003]),
        (3e-7, 9e-7, [4e-7, 6e-7, 8e-7]),
    ],
)
def test_ticks_are_round_numbers_inside_the_axis(low, high, expected):
    assert ticks(low, high) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("power", range(-9, 10, 3))
def test_there_are_a_few_ticks_at_any_scale(power):
    for high in (1.0, 1.3, 2.0, 3.7, 7.9, 9.99):
        assert 3 <= len(ticks(0, high * 10.0**power)) <= 6


def test_numbers_are_as_long_as_they_need_be():
    assert [number(x, 0.5) for x in (0, 0.5, 1)] == ["0", "0.5", "1.0"]
    assert [number(x, 1000.0) for x in (1000, 20000)] == ["1,000", "20,000"]
    assert number(3.9e-7) == "3.9e-7"
    assert number(1.5e9) == "1.5e9"
    assert number(0.12345) == "0.1235"
    assert [percent(x, 0.2) for x in (0.2, 1.0)] == ["20%", "100%"]
    assert percent(0.995, 0.005) == "99.5%"
    assert percent(0.99456) == "99.46%"


def test_an_axis_holds_its_values_even_where_they_are_all_the_same():
    for values in ([0.0], [3.0, 3.0], [-2.0], [1e-9], [0.1, 0.9]):
        for from_zero in (False, True):
            low, high = span(values, from_zero)
            assert low <= min(values)
            assert max(values) < high
