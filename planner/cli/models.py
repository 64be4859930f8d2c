"""Finding the model that the command line names: in the zoo, in a file of the user, or in an importable module."""

import importlib
import importlib.util
import inspect
import sys
from pathlib import Path
from typing import Any

from planner.errors import ModelError
from planner.model import Model

A_DEVICE = 8
"""Rows of the default batch for each device."""


def load(name: str, *, batch: int | None, device_count: int, settings: dict[str, Any]) -> Model:
    """The model of that name.

    Args:
      name: a zoo name, `path.py:function` or `package.module:function`.
      batch: batch size, or None for the default.
      device_count: for the default batch of a zoo model.
      settings: passed to `planner.models.build`.

    Raises:
      UnknownNameError: not in the zoo.
      ModelError: the file, module or function is missing, fails, or does not return a `planner.Model`.
    """
    if name.endswith(".py"):
        raise ModelError(f"{name!r} is a file, and which function of it makes the model is not said",
                         f"write {name}:FUNCTION")
    if ":" not in name:
        from planner import models

        return models.build(name, batch_size=A_DEVICE * device_count if batch is None else batch, **settings)
    if settings:
        raise ModelError(f"{', '.join(sorted(settings))} cannot be set for {name!r}", "these are for models of the zoo")
    return _call(_function(name), name, batch)


def of_batch(name: str, settings: dict[str, Any], batch: int) -> Model:
    """The model of that name with that batch, for processes that plan it."""
    return load(name, batch=batch, device_count=1, settings=settings)


def _function(name: str) -> Any:
    where, _, function = name.rpartition(":")
    module = _from_file(Path(where)) if where.endswith(".py") else _from_import(where)
    found = getattr(module, function, None)
    if not callable(found):
        known = sorted(n for n, f in vars(module).items() if inspect.isfunction(f) and not n.startswith("_"))
        raise ModelError(f"{where} has no function {function!r}", f"it has {', '.join(known) or 'no functions'}")
    return found


def _from_file(path: Path) -> Any:
    if not path.is_file():
        raise ModelError(f"there is no file {path}", "give path.py:function")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ModelError(f"{path} cannot be imported", "give a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)  # dataclasses and pickles look their module up
    sys.path.insert(0, str(path.resolve().parent))  # as `python path.py` does
    try:
        spec.loader.exec_module(module)
    except Exception as fault:
        raise ModelError(f"{path} fails when it is imported: {type(fault).__name__}: {fault}",
                         f"try `python {path}`") from fault
    finally:
        sys.path.pop(0)
    return module


def _from_import(where: str) -> Any:
    sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(where)
    except Exception as fault:
        raise ModelError(f"module {where!r} cannot be imported: {type(fault).__name__}: {fault}",
                         "give path.py:function or package.module:function") from fault
    finally:
        sys.path.pop(0)


def _call(function: Any, name: str, batch: int | None) -> Model:
    options: dict[str, Any] = {}
    if batch is not None:
        if "batch_size" not in inspect.signature(function).parameters:
            raise ModelError(f"--batch is given, but {name!r} takes no batch size",
                             "leave --batch out, or let the function take batch_size=")
        options["batch_size"] = batch
    try:
        model = function(**options)
    except Exception as fault:
        raise ModelError(f"{name!r} fails: {type(fault).__name__}: {fault}",
                         "it must work without arguments and return a planner.Model") from fault
    if not isinstance(model, Model):
        raise ModelError(f"{name!r} returns {type(model).__name__}, not a planner.Model",
                         "return planner.Model(loss_fn, params, batch, optimizer=...)")
    return model
