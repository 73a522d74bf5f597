"""Reading and running a jaxpr: addresses, edits at any depth, bottlenecks."""

from __future__ import annotations

import numpy as np
import pytest

jax = pytest.importorskip("jax")
jnp = jax.numpy
from jax.ad_checkpoint import checkpoint_name  # noqa: E402

from gradcam.backends.jax.bottlenecks import images  # noqa: E402
from gradcam.backends.jax.walk import all_bodies, evaluate, walk  # noqa: E402


def named(_, eqn):
    return eqn.params["name"] if eqn.primitive.name == "name" else None


def nested(x):
    """10 (2 (x + 1) + 1) by a scan of a jit, then a name outside of it."""

    def step(carry, scale):
        return jax.jit(lambda c: checkpoint_name(c + 1, "inner"))(carry) * scale, carry

    x, _ = jax.lax.scan(step, x, jnp.array([2.0, 10.0]))
    return checkpoint_name(x, "outer")


def test_the_walk_repeats_a_scans_findings_for_each_step_in_the_order_of_the_runs():
    jaxpr = jax.make_jaxpr(nested)(1.0).jaxpr
    findings = list(walk(jaxpr, named))
    assert [name for _, name in findings] == ["inner", "inner", "outer"]
    (scan, first), *_ = findings[0][0]
    assert (first, findings[1][0][0]) == (0, (scan, 1))


@pytest.mark.parametrize(
    ("edited", "expected"),
    # of x = 1: 10 (2 (1 + 1) + 1) = 50; 5 in place of the 2, of the second sum 5, or of the result
    [([], 50), ([0], 10 * (2 * 5 + 1)), ([1], 10 * 5), ([2], 5), ([0, 1], 10 * 5), ([0, 2], 5)],
)
def test_an_edit_replaces_one_run_of_a_value(edited, expected):
    closed = jax.make_jaxpr(nested)(1.0)
    addresses = [address for address, _ in walk(closed.jaxpr, named)]
    edits = {addresses[n]: lambda value: jnp.full_like(value, 5) for n in edited}
    (result,) = evaluate(closed.jaxpr, closed.consts, [jnp.asarray(1.0)], edits)
    assert result == expected


def test_edits_of_a_call_and_of_a_value_inside_it_are_both_made():
    closed = jax.make_jaxpr(jax.jit(lambda x: checkpoint_name(x + 1, "inner") * 3))(1.0)
    ((inner, _),) = walk(closed.jaxpr, named)
    seen = []
    edits = {inner: lambda value: value + 10, inner[:1]: lambda value: seen.append(value) or value}
    (result,) = evaluate(closed.jaxpr, closed.consts, [jnp.asarray(1.0)], edits)
    assert result == 3 * (2 + 10)
    assert seen == [result]


def test_what_is_inside_a_cond_is_found_by_the_walk_that_enters_everything():
    def function(x):
        return jax.lax.cond(x > 0, lambda x: checkpoint_name(x, "inner"), lambda x: x, x)

    jaxpr = jax.make_jaxpr(function)(1.0).jaxpr
    assert not list(walk(jaxpr, named))
    assert [name for _, name in walk(jaxpr, named, all_bodies)] == ["inner"]


def operations(function, *shapes):
    jaxpr = jax.make_jaxpr(function)(*map(jnp.ones, shapes)).jaxpr
    return [eqn.primitive.name for _, eqn in images(jaxpr, jaxpr.invars[:1])]


IMAGE = (2, 8, 8, 4)


def test_a_value_beside_a_residual_connection_is_no_bottleneck():
    def block(x):
        a = jnp.tanh(jnp.sin(x))
        return (a + a * 2).sum((1, 2))  # at the product the sum needs `a` as well

    assert operations(block, IMAGE) == ["sin", "tanh", "add"]


def test_bottlenecks_depend_on_the_input_and_have_space():
    def function(x, weight):
        return jnp.exp((x * jnp.cos(weight)).sum((1, 2)))

    assert operations(function, IMAGE, (4,)) == ["mul"]


def test_a_call_is_entered_where_it_computes_and_nothing_else_is_live():
    def features(x, weight):
        return jnp.tanh(x @ weight)

    call = jax.jit(features)
    activation = jax.jit(lambda x: jnp.tanh(jnp.sin(x)))
    weight = (4, 4)
    inside = operations(lambda x, w: call(x, w).sum(), IMAGE, weight)
    assert inside[:2] == ["dot_general", "tanh"]
    assert len(inside) == 3  # and the call itself
    assert len(operations(lambda x: activation(x).sum(), IMAGE)) == 1
    assert "dot_general" not in operations(lambda x, w: (call(x, w) + x).sum(), IMAGE, weight)


def test_an_edit_at_a_bottleneck_is_an_edit_of_its_value():
    closed = jax.make_jaxpr(lambda x: jnp.tanh(x).sum())(jnp.ones(IMAGE))
    ((address, _),) = images(closed.jaxpr, closed.jaxpr.invars)
    edits = {address: lambda value: value * 0 + 1}
    (result,) = evaluate(closed.jaxpr, closed.consts, [jnp.ones(IMAGE)], edits)
    np.testing.assert_allclose(result, np.prod(IMAGE))
