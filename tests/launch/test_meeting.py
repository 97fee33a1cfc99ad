"""Where the launchers of an elastic job meet."""

import itertools

import pytest

from pipeline.launch.meeting import choose
from pipeline.launch.reports import Role

A, B = "a" * 32, "b" * 32
FRESH, ORPHAN = Role(), Role(A, None)


def follows(index, attempt=A):
    return Role(attempt, index)


@pytest.mark.parametrize(
    ("own", "roles", "found"),
    [
        (0, {}, 0),
        (0, {1: FRESH, 2: FRESH}, 0),
        (1, {0: FRESH, 2: FRESH}, None),
        (1, {}, None),
        (1, {0: follows(0)}, 0),
        # A restarted node 0 joins the others, and waits while they look for a coordinator.
        (0, {1: follows(1), 2: follows(1)}, 1),
        (0, {1: follows(0), 2: ORPHAN}, None),
        (0, {1: ORPHAN}, None),
        (0, {2: follows(1)}, None),
        (2, {0: FRESH, 1: follows(1)}, 1),
    ],
)
def test_a_launcher_that_was_just_started(own, roles, found):
    assert choose(own, None, roles) == found


@pytest.mark.parametrize(
    ("own", "roles", "found"),
    [
        (1, {}, 1),
        (1, {2: ORPHAN}, 1),
        (2, {1: ORPHAN}, None),
        (2, {1: follows(1)}, 1),
        (1, {2: follows(2)}, 2),
        # Node 0 still answers node 2, or node 2 has not noticed yet.
        (1, {2: follows(0)}, None),
        (2, {1: follows(0)}, None),
        # Node 0 is there again.
        (1, {0: follows(0), 2: ORPHAN}, 0),
        # It was restarted, perhaps for an attempt of its own.
        (1, {0: FRESH, 2: ORPHAN}, 1),
        (1, {0: follows(0, B)}, 1),
    ],
)
def test_a_launcher_that_has_lost_its_coordinator(own, roles, found):
    assert choose(own, A, roles) == found


@pytest.mark.parametrize("order", itertools.permutations(range(1, 4)))
@pytest.mark.parametrize("restarted", [False, True])
def test_all_meet_at_one_node_in_whatever_order_they_ask(order, restarted):
    attempts = {0: None} if restarted else {}
    roles = {0: FRESH} if restarted else {}
    attempts |= dict.fromkeys(order, A)
    roles |= dict.fromkeys(order, follows(0))
    for index in order:  # they notice one after the other that node 0 is gone
        roles[index] = ORPHAN
        for other in [*order, 0] * 3:
            if other in roles and roles[other].coordinator is None:
                others = {i: role for i, role in roles.items() if i != other}
                found = choose(other, attempts[other], others)
                if found is not None:
                    attempts[other], roles[other] = A, follows(found)
    assert {role.coordinator for role in roles.values()} == {1}
