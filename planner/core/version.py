"""The version of this package, as it is installed. In: nothing. Out: text."""

from importlib.metadata import PackageNotFoundError, version


def package_version() -> str:
    """The installed version of this package."""
    try:
        return version("jax-planner")
    except PackageNotFoundError:
        return "0+unknown"
