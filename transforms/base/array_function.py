"""`ArrayFunction`: base class of the steps that call a user's NumPy function."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np

from shardedstore.codecs.array_info import ArrayInfo
from shardedstore.errors import ChainError
from shardedstore.notices import Notice
from shardedstore.partition.selection import means_by_glob
from shardedstore.stores.hierarchy import Node
from shardedstore.transforms.base.array_step import ArrayStep
from shardedstore.transforms.base.recode import Recoder
from shardedstore.transforms.base.variables import index_coordinates
from shardedstore.zarr.grid import Coords

Function = Callable[[Any, Coords], Any]


@dataclass(frozen=True, repr=False)
class ArrayFunction(ArrayStep):
    """A step that calls a NumPy function of decoded data and their position in the array.

    The parameters are those of `MapChunks`.
    """

    form: ClassVar[Literal["encoded", "decoded"]] = "decoded"
    func: Function = field(compare=False)
    dtype: Any = None
    fill_value: Any = ...
    name: str = ""
    token: str = field(init=False)  # compared instead of the function

    def __post_init__(self) -> None:
        super().__post_init__()
        step = type(self).__name__
        if not callable(self.func):
            raise ChainError(f"{step} was given {self.func!r}, which is not a function")
        _check_parameters(step, self.func)
        try:
            dtype = None if self.dtype is None else np.dtype(self.dtype)
        except TypeError as error:
            raise ChainError(f"{step} was given dtype={self.dtype!r}, which is unknown to NumPy: {error}") from None
        object.__setattr__(self, "dtype", dtype)
        object.__setattr__(self, "token", self.name or repr(self.func))

    def __repr__(self) -> str:
        shown = "".join(f", {name}={value!r}" for name, value in self.shown().items() if value is not None)
        return f"{type(self).__name__}({getattr(self.func, '__name__', repr(self.func))}{shown})"

    def check_function(self, recoder: Recoder, shape: Coords, wanted: Coords) -> None:
        """Call the function with fill values, and refuse a result of the wrong shape or data type.

        An exception of the function itself is ignored, since the function may fail on fill values only.

        Parameters
        ----------
        recoder : Recoder
            The old and the new metadata of the array.
        shape : tuple of int
            The shape of the array that the function gets.
        wanted : tuple of int
            The shape of the array that it must return.

        Raises
        ------
        ChainError
            If the result has another shape, or a data type that the array can't hold.
        """
        sample = np.full(shape, recoder.decoder.padding, recoder.old.dtype)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                result = self.func(sample, (0,) * len(shape))
        except Exception:  # noqa: BLE001 (it may fail on fill values only; errors on real data are reported in the job)
            return
        try:
            recoder.checked(result, wanted)
        except (TypeError, ValueError) as error:
            raise ChainError(f"{self!r} on {recoder.path!r}: {error}") from None

    def notices(self, nodes: Mapping[str, Node]) -> Iterator[Notice]:
        # docstring inherited
        yield from super().notices(nodes)
        chosen = self.bound(nodes)
        found = [path for path in index_coordinates(nodes) if chosen.means(path) and means_by_glob(self.arrays, path)]
        if found:
            yield Notice(
                f"{type(self).__name__} changes index coordinates, which arrays= does not name: use arrays='data_vars' to "
                "leave them out",
                tuple(found),
            )

    def shown(self) -> dict[str, Any]:
        """Return the options for the repr.

        Returns
        -------
        dict
            The options by name; None for options that were not given.
        """
        return {
            "dtype": None if self.dtype is None else str(self.dtype),
            "fill_value": None if self.fill_value is ... else self.fill_value,
            "name": self.name or None,
            "arrays": None if self.arrays == "*" else self.arrays,
            "threads": self.threads,
        }

    def metadata(self, meta: ArrayInfo) -> ArrayInfo:
        # docstring inherited
        if self.dtype is not None:
            meta = meta.replace(dtype=self.dtype)
        return meta if self.fill_value is ... else meta.replace(fill_value=self.fill_value)


def _check_parameters(step: str, func: Function) -> None:
    """Refuse a function that can't be called with data and a position."""
    try:
        parameters = inspect.signature(func)
    except ValueError:  # a function in C need not have one
        return
    try:
        parameters.bind(None, ())
    except TypeError as error:
        name = getattr(func, "__name__", repr(func))
        raise ChainError(
            f"{step} calls {name}(data, position), and the parameters of {name} are {parameters}: {error}"
        ) from None
