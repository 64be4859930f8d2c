"""Every name of JAX outside its documented API that we use.

Each with the version it was seen in, and why there is no other way.
"""

from typing import Any

from jax._src import distributed as _distributed  # 0.10.2: the coordination service; `jax.distributed` has no accessor
from jax._src.ad_util import add_any_p  # 0.10.2: the sum of two cotangents, which JAX emits; no public name
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Var  # 0.10.2: types of what `jax.make_jaxpr` returns
from jax.extend.core import Literal as JaxprLiteral  # 0.10.2: as above
from jaxlib import xla_client  # 0.10.2: a second CPU client; the public way fixes their number when JAX starts

__all__ = ["ClosedJaxpr", "Jaxpr", "JaxprEqn", "JaxprLiteral", "Var", "add_any_p", "bind",
           "cpu_devices", "file_of", "frames_of", "place_of", "told_params"]


def place_of(eqn: Any) -> Any:
    """The Python stack that created a jaxpr equation, equal for equations of one place; None if not recorded.

    0.10.2: `source_info.traceback` of an equation has no documented accessor.
    """
    return eqn.source_info.traceback


def frames_of(place: Any) -> list[tuple[str, int, str]]:
    """(file, line, function) of a `place_of`, innermost first. 0.10.2: as above."""
    return [] if place is None else [(f.file_name, f.line_num, f.function_name) for f in place.frames]


def file_of(jaxpr: Any) -> str:
    """The file of the function that a jaxpr was traced from, or "".

    0.10.2: `debug_info` of a jaxpr has no documented accessor.
    """
    return getattr(jaxpr.debug_info, "func_filename", None) or ""


def told_params(eqn: Any) -> dict[str, Any]:
    """The parameters of an equation as every version tells them: those of `scan` with `num_consts` and `num_carry`.

    0.11.2: `scan` has trees of its operands and results (`ft_in`, `ft_out`) in place of the two numbers.
    """
    params = dict(eqn.params)
    if "ft_in" in params:
        consts, carry, _ = params.pop("ft_in").unpack()
        del params["ft_out"]
        params |= {"num_consts": len(consts), "num_carry": len(carry)}
    return params


def bind(primitive: Any, params: dict[str, Any], operands: Any) -> Any:
    """Execute or trace a primitive with the parameters of an equation.

    0.10.2: `get_bind_params` gives keyword parameters; until 0.7 it gave (functions, parameters).
    """
    prepared = primitive.get_bind_params(params)
    if isinstance(prepared, tuple):
        functions, prepared = prepared
        return primitive.bind(*functions, *operands, **prepared)
    return primitive.bind(*operands, **prepared)


def cpu_devices(count: int) -> list[Any]:
    """Virtual CPU devices beside those of JAX's own backend, to compile for.

    0.10.2: `jax_num_cpu_devices` can't change once JAX has started; a client of their own has as many as asked for.
    """
    return list(xla_client.make_cpu_client(num_devices=count).devices())


def coordination_client() -> Any:
    """The client of JAX's coordination service; None before `jax.distributed.initialize`.

    0.10.2: no public name; `key_value_set` and `blocking_key_value_get` serve processes that differ too much to run a
    collective together, as those of `jax.experimental.multihost_utils` would.
    """
    return _distributed.global_state.client


def coordinator_address() -> str:
    """`"host:port"` of process 0, which JAX may have found in the environment. 0.10.2: no public accessor."""
    return _distributed.global_state.coordinator_address or ""


def process_numbers() -> tuple[int, int]:
    """Which process this is, of how many. 0.10.2: `jax.process_index()` starts the devices first."""
    return _distributed.global_state.process_id, _distributed.global_state.num_processes


def coordinates(device: object) -> tuple[int, ...] | None:
    """Where a TPU chip lies in its slice (`coords` of its device, which `jax.experimental.mesh_utils` reads; jax 0.10,
    0.11); None for other devices."""
    found = getattr(device, "coords", None)
    return None if found is None else tuple(int(c) for c in found)
