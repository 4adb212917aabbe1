"""Burn-in: matrix products whose result is known, repeated on every core and GPU at once.

A product that differs in one bit is silent corruption. All units work at the same time, as in
training: then the power is drawn and the heat is made that a weak one fails at.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from playbooks.checks.check import Measurement, Verdict
from playbooks.checks.child import Answer, Child, answer, depend_on_parent, run_children
from playbooks.checks.processors import driver_gpu_names, gpu_count, stay_on, usable_cores

if TYPE_CHECKING:
    from collections.abc import Callable

NAME = "burn-in"
_ONE_THREAD = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
_GPU_KINDS = ("bfloat16", "float32")  # tensor cores; the other arithmetic units
_MARGIN_S = 1.0  # a unit is given up so long before the whole check would be


class Product(Protocol):
    """One known product on one unit of the machine.

    Attributes:
        flop: floating-point operations of one product.
    """

    flop: float

    def multiply(self) -> Any:  # noqa: ANN401 - a NumPy array or a tensor
        """Compute it, and return when it is there."""
        ...

    def difference(self, result: Any) -> str:  # noqa: ANN401 - what multiply gave
        """ "" where the result is the known one, bit by bit, and else where it is not."""
        ...


@dataclass(frozen=True, kw_only=True)
class Burn:
    """What one unit did.

    Attributes:
        flops: operations a second while it multiplied; None where it did not finish one product.
        wrong: "", or which product differed and how; nothing was computed after it.
    """

    products: int
    flops: float | None
    wrong: str


def burn(
    product: Product, *, seconds: float, clock: Callable[[], float] = time.perf_counter
) -> Burn:
    """Multiply for ``seconds``, at least once, and compare every result; the first is no figure."""
    wrong = product.difference(product.multiply())  # the first one warms up
    products, busy_s, begun = 1, 0.0, clock()
    while not wrong and (products == 1 or clock() - begun < seconds):
        started = clock()
        result = product.multiply()
        busy_s += clock() - started
        products += 1
        wrong = product.difference(result)
    flops = (products - 1) * product.flop / busy_s if busy_s else None
    named = f"product {products}: {wrong}" if wrong else ""
    return Burn(products=products, flops=flops, wrong=named)


class Flipped:
    """A product, of which the ``number``-th has one bit flipped: for drills and tests."""

    def __init__(self, product: Product, number: int) -> None:
        self.flop = product.flop
        self._product = product
        self._left = number

    def multiply(self) -> Any:  # noqa: ANN401 - what the product gives
        """Compute it, and spoil it when its turn has come."""
        result = self._product.multiply()
        self._left -= 1
        if self._left == 0:
            _flip_bit(result)
        return result

    def difference(self, result: Any) -> str:  # noqa: ANN401 - what multiply gave
        """As the product says."""
        return self._product.difference(result)


def _flip_bit(result: Any) -> None:  # noqa: ANN401 - a NumPy array or a tensor
    if hasattr(result, "is_cuda"):
        import torch

        octets = result.view(torch.uint8).reshape(-1)
    else:
        octets = result.view("u1").reshape(-1)
    octets[len(octets) // 2 + 1] ^= 1


@dataclass(frozen=True, kw_only=True)
class BurnIn:
    """The check: one process a core, and one a GPU.

    Attributes:
        matrix_units: also bfloat16 on every core, through PyTorch, where that is installed (it
            takes seconds to load): processors have units of their own for it.
        flip_bit: for drills: the number of the product in which every unit finds a flipped bit.
        grace_s: beyond the measuring, what all may take to start; then a unit has failed.
    """

    matrix_units: bool = False
    flip_bit: int | None = None
    grace_s: float = 60.0
    name: str = NAME

    def measure(self, seconds: float) -> list[Measurement]:
        """Burn for so long; a unit that does not answer has failed."""
        units = self._units()
        flip = () if self.flip_bit is None else ("--flip-bit", str(self.flip_bit))
        rounds = [[unit for unit in units if unit[1] == kind] for kind in _kinds(units)]
        deadline = time.monotonic() + seconds + self.grace_s - _MARGIN_S
        measured = []
        for burning in rounds:
            share = str(seconds / len(rounds))
            children = [
                Child(
                    module=__name__,
                    arguments=(where, kind, share, *flip),
                    environment=_ONE_THREAD if where.startswith("core") else None,
                )
                for where, kind in burning
            ]
            answers = run_children(children, limit_s=deadline - time.monotonic())
            measured += [_read(*unit, given) for unit, given in zip(burning, answers, strict=True)]
        return measured + _missing_torch()

    def _units(self) -> list[tuple[str, str]]:
        """(where, kind of number) of everything that burns."""
        cores = [f"core:{core}" for core in usable_cores()]
        units = [(core, "float32") for core in cores]
        if self.matrix_units and _has_torch():
            units += [(core, "bfloat16") for core in cores]
        for gpu in range(gpu_count()):
            units += [(f"cuda:{gpu}", kind) for kind in _GPU_KINDS]
        return units


def _kinds(units: list[tuple[str, str]]) -> list[str]:
    """Kinds of numbers, one after the other: a core and a GPU burn together, two kinds do not."""
    return list(dict.fromkeys(kind for _, kind in units))


def _has_torch() -> bool:
    from importlib.util import find_spec

    return find_spec("torch") is not None


def _missing_torch() -> list[Measurement]:
    if _has_torch() or not (names := driver_gpu_names()):
        return []
    why = "not checked: PyTorch is not installed"
    return [
        Measurement(
            check=NAME, subject=f"cuda:{gpu}", metric=name, fault=Verdict.SKIPPED, detail=why
        )
        for gpu, name in enumerate(names)
    ]


def _read(where: str, kind: str, given: Answer) -> Measurement:
    failed = {"fault": str(Verdict.FAILED), "detail": given.failure}
    found: dict[str, Any] = failed if given.failure else given.document
    return Measurement(
        check=NAME,
        subject=f"{where} {kind}",
        metric=f"{kind} {where.partition(':')[0]}",
        value=found.get("value"),
        unit="GFLOP/s",
        fault=Verdict(found["fault"]) if found.get("fault") else None,
        detail=found["detail"],
    )


# -- one unit, in a process of its own -----------------------------------------------------------


def main() -> None:
    """Burn one unit and print what it did."""
    depend_on_parent()
    parser = argparse.ArgumentParser()
    parser.add_argument("where", help="core:N or cuda:N")
    parser.add_argument("kind", help="float32 or bfloat16")
    parser.add_argument("seconds", type=float)
    parser.add_argument("--flip-bit", type=int)
    given = parser.parse_args()
    answer(_burn_unit(given.where, given.kind, given.seconds, given.flip_bit))


def _burn_unit(where: str, kind: str, seconds: float, flip_bit: int | None) -> dict[str, Any]:
    from playbooks.checks.known_product import WrongProductError

    device, _, number = where.partition(":")
    if device == "core":
        stay_on(int(number))
    try:
        product = _product(where, kind)
        wall_s, on_core_s = time.perf_counter(), time.process_time()
        done = burn(product if flip_bit is None else Flipped(product, flip_bit), seconds=seconds)
        on_core_s = time.process_time() - on_core_s
        share = on_core_s / (time.perf_counter() - wall_s)
    except WrongProductError as error:
        return {"fault": str(Verdict.CORRUPT), "detail": str(error)}
    return {
        "value": None if done.flops is None else done.flops / 1e9,
        "fault": str(Verdict.CORRUPT) if done.wrong else None,
        "detail": done.wrong or _describe(done, share if device == "core" else None),
    }


def _describe(done: Burn, share: float | None) -> str:
    """A core that is slow though it was ours is another case than one that others used too."""
    told = f"{done.products} exact products"
    return told if share is None else f"{told}, on its core {min(share, 1.0):.0%} of the time"


def _product(where: str, kind: str) -> Product:
    if where.startswith("core") and kind == "float32":
        from playbooks.checks.array_product import ArrayProduct

        return ArrayProduct()
    from playbooks.checks.tensor_product import TensorProduct

    if where.startswith("core"):
        return TensorProduct(device="cpu", kind=kind)
    return TensorProduct(device=where, kind=kind, size=8192)


if __name__ == "__main__":
    main()
