"""Every way between two shardings gives the same numbers, and the host never waits on it."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from planner.runtime.routes import Route, Routes, route

SHAPE = (8, 8)


def on(first: int, shape: tuple[int, ...], spec: P) -> NamedSharding:
    count = int(np.prod(shape))
    devices = np.array(jax.devices()[first:first + count]).reshape(shape)
    return NamedSharding(Mesh(devices, ("x", "y")[:len(shape)]), spec)


SAME = [(on(0, (2,), P("x")), on(0, (2,), P("x")))]
COPIES = [(on(0, (2,), P("x")), on(2, (2,), P("x"))), (on(0, (2,), P()), on(2, (4,), P())),
          (on(0, (2,), P("x")), on(2, (2, 2), P("x"))), (on(0, (2, 2), P(("x", "y"))), on(4, (4,), P("x"))),
          (on(0, (1,), P()), on(2, (4,), P("x")))]
BEFORE = [(on(0, (2,), P("x")), on(2, (2,), P())), (on(0, (2,), P()), on(2, (2,), P("x"))),
          (on(0, (4,), P("x")), on(4, (2, 2), P("x", "y"))), (on(0, (4,), P(None, "x")), on(4, (4,), P("x")))]
AFTER = [(on(0, (2,), P("x")), on(2, (4,), P("x"))), (on(0, (4,), P("x")), on(4, (2,), P())),
         (on(0, (2,), P()), on(2, (4,), P(None, "x")))]
WITHIN = [(on(0, (4,), P("x")), on(0, (4,), P(None, "x"))), (on(0, (4,), P("x")), on(0, (2, 2), P("y", "x")))]
ALL = [*SAME, *COPIES, *BEFORE, *AFTER, *WITHIN]


@pytest.mark.parametrize(("pairs", "parts"), [(COPIES, {"copied"}), (BEFORE, {"before", "copied"}),
                                              (WITHIN, {"after"})])
def test_an_array_is_laid_out_anew_only_where_no_shard_fits(pairs, parts):
    for lies, wanted in pairs:
        found = route(lies, wanted, SHAPE)
        assert {name for name in ("before", "copied", "after") if getattr(found, name) is not None} == parts


def test_the_whole_array_travels_between_unequal_numbers_of_devices():
    for lies, wanted in AFTER:
        found = route(lies, wanted, SHAPE)
        assert found == Route(found.before, NamedSharding(wanted.mesh, P()), wanted)
        assert (found.before is None) == lies.is_fully_replicated


def test_every_way_keeps_the_numbers():
    values = [np.arange(64, dtype=np.float32).reshape(SHAPE) + n for n in range(len(ALL))]
    arrays = [jax.device_put(x, lies) for x, (lies, _) in zip(values, ALL, strict=True)]
    wanted = [where for _, where in ALL]
    routes = Routes()
    for _ in range(2):  # the second time by known ways
        for x, where, right in zip(routes.send(arrays, wanted), wanted, values, strict=True):
            assert x.sharding == where
            np.testing.assert_array_equal(x, right)


def test_what_lies_right_is_not_touched():
    x = jax.device_put(np.ones(SHAPE), SAME[0][0])
    assert Routes().send([x], [SAME[0][1]])[0] is x


def late(lies: NamedSharding, let_go: threading.Event) -> jax.Array:
    """An array whose numbers come when they are let go. A program of one CPU device may run while it is dispatched: an
    array on one is taken from one on two."""
    if lies.num_devices == 1:
        return late(on(0, (2,), P()), let_go).addressable_shards[0].data

    def wait(x):
        assert let_go.wait(120)
        return x

    def run(x):
        return jax.pure_callback(wait, jax.ShapeDtypeStruct((), jnp.float32), x) + jnp.zeros(SHAPE, jnp.float32)

    whole = NamedSharding(lies.mesh, P())
    return jax.jit(run, out_shardings=lies)(jax.device_put(np.float32(3), whole))


@pytest.mark.parametrize(("lies", "wanted"), ALL)
def test_the_host_never_waits(lies, wanted):
    let_go, routes = threading.Event(), Routes()
    routes.send([jax.device_put(np.ones(SHAPE, np.float32), lies)], [wanted])  # compiles
    array = late(lies, let_go)
    sent: list[jax.Array] = []
    sending = threading.Thread(target=lambda: sent.extend(routes.send([array], [wanted])))
    sending.start()
    sending.join(30)
    returned = not sending.is_alive()
    let_go.set()
    sending.join(60)
    assert returned, "the host waited for numbers"
    np.testing.assert_array_equal(sent[0], np.full(SHAPE, 3, np.float32))
