"""What the parts of a checkpoint hold: a digest says that a file is whole, not that it is right."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from compsgd.comm.traffic.ledger import Purpose
from compsgd.history.axes import metric_names, steps_of
from compsgd.kinds import (
    ANYTHING,
    COUNT,
    MEASURED,
    TEXT,
    Exactly,
    Fields,
    Flag,
    Integer,
    Kind,
    ListOf,
    MappingOf,
    MisfitError,
    Number,
    Row,
    TensorOf,
    is_dense,
    misfit,
)
from compsgd.workers.options import Options
from compsgd.workers.results.formats import check_cells
from compsgd.workers.train.byte_check import byte_check_format
from compsgd.workers.train.duration import Duration
from compsgd.workers.train.measures import measure_of
from compsgd.workers.train.scores import BatchScore

_SCORE = Row([MEASURED, MEASURED])
_AMOUNT = Number(0)
_FLOW = Row([COUNT, COUNT])
# A GradScaler's.
_LOSS_SCALE = Fields(
    {
        "scale": _AMOUNT,
        "growth_factor": _AMOUNT,
        "backoff_factor": _AMOUNT,
        "growth_interval": COUNT,
        "_growth_tracker": COUNT,
    }
)
# What is in it, the optimizer checks when it takes it over.
_STATE_BY_PARAMETER = MappingOf(COUNT, MappingOf(TEXT, ANYTHING))


class SharedFormat:
    """Of the part that all processes share."""

    meaning = "what all processes share of a checkpoint"

    def __init__(
        self,
        options: Options,
        weights: Mapping[str, Tensor],
        duration: Duration,
        num_finished: int,
    ) -> None:
        """
        Args:
            options: of the run.
            weights: the model's, by name; their shapes and types matter.
            duration: of a cell.
            num_finished: how many cells are finished.
        """
        self._options = options
        self._weights = Fields(
            {name: TensorOf(one.shape, [one.dtype]) for name, one in weights.items()}
        )
        self._duration = duration
        self._num_finished = num_finished

    def check(self, place: str, value: object) -> None:
        finished = Fields({"cells": ANYTHING, "histories": ANYTHING})
        of_run = {
            "finished": finished,
            "wire": Fields({purpose.value: _FLOW for purpose in Purpose}),
        }
        Fields(of_run, others=ANYTHING).check(place, value)
        assert isinstance(value, Mapping), "checked"
        self._check_finished(**value["finished"])
        of_cell = {name: one for name, one in value.items() if name not in of_run}
        if of_cell:
            self._check_cell(of_cell)

    def _check_finished(self, cells: object, histories: object) -> None:
        own = self._options.cells()[: self._num_finished]
        ListOf(ANYTHING, len(own)).check("finished.cells", cells)
        check_cells(cells, own, measure_of(self._options.dataset).results)
        if not isinstance(histories, Mapping) or list(histories) != own:
            raise misfit("finished.histories", histories, "those of the finished cells")
        for cell, history in histories.items():
            MappingOf(TEXT, _Series()).check(f"finished.histories[{cell}]", history)
            for metric in metric_names(history):
                steps_of(history, metric)

    def _check_cell(self, state: Mapping[str, Any]) -> None:
        most = self._duration
        position = Fields(
            {
                "epoch": Integer(0, most.num_epochs),
                "round_": Integer(0, most.rounds_per_epoch),
                "must_evaluate": Flag(),
            }
        )
        Fields({"position": position}, others=ANYTHING).check("", state)
        epoch, round_ = state["position"]["epoch"], state["position"]["round_"]
        Integer(0, most.rounds_of(epoch)).check("position.round_", round_)
        byte_check = byte_check_format(epoch) if self._options.verify_bytes else Exactly(None)
        num_rounds = epoch * most.rounds_per_epoch + round_
        Fields(
            {
                "position": position,
                "weights": self._weights,
                "optimizer": Fields({"state": _STATE_BY_PARAMETER}, others=ANYTHING),
                "recorder": _recorded(epoch, num_rounds, self._options.num_workers),
                "num_full_rounds": COUNT,
                "byte_check": byte_check,
                "seconds": _AMOUNT,
            }
        ).check("", state)
        _check_columns(state["recorder"], is_over=epoch == most.num_epochs)


def is_in_cell(shared: Mapping[str, Any]) -> bool:
    """Whether a checkpoint is of a cell under way; between two cells there is nothing in its
    workers' parts."""
    return "weights" in shared


def worker_format(duration: Duration, amp: str, shared: Mapping[str, Any]) -> Kind:
    """Of a worker's part, beside a shared one."""
    if not is_in_cell(shared):
        return Fields({})
    scores = TensorOf((duration.rounds_per_epoch, len(BatchScore._fields)), [torch.float64])
    return Fields(
        {
            "optimizer": _STATE_BY_PARAMETER,
            "gradient": _LOSS_SCALE if amp == "fp16" else Fields({}),
            "scores": scores,
        }
    )


def _recorded(num_epochs: int, num_rounds: int, num_workers: int) -> Kind:
    """What a `Recorder` holds after so many whole epochs, and so many rounds in all."""
    return Fields(
        {
            "epoch": ListOf(_SCORE, num_epochs),
            "epoch_step": ListOf(COUNT, num_epochs),
            "test": ListOf(_SCORE),
            "test_step": ListOf(COUNT),
            "batch": ListOf(_SCORE),
            "batch_step": ListOf(COUNT),
            "seconds": ListOf(_AMOUNT, num_rounds),
            "compute_seconds": ListOf(_AMOUNT, num_rounds),
            "bytes_sent": ListOf(COUNT, num_rounds),
            "diagnosis_step": ListOf(COUNT),
            "cosine": ListOf(MEASURED),
            "agreement": ListOf(ListOf(Number(0, 1), num_workers)),
        }
    )


def _check_columns(recorded: Mapping[str, Any], *, is_over: bool) -> None:
    """Those taken together are as many, and a cell that is over has been tested."""
    for first, *others in (
        ("test", "test_step"),
        ("batch", "batch_step"),
        ("diagnosis_step", "cosine", "agreement"),
    ):
        for other in others:
            length = len(recorded[first])
            ListOf(ANYTHING, length).check(f"recorder.{other}", recorded[other])
    if is_over and not recorded["test"]:
        raise MisfitError("recorder.test is empty, and training is over")


class _Series:
    """A history: numbers, or a tensor of them."""

    meaning = "a list of numbers, or a dense tensor of numbers"

    def check(self, place: str, value: object) -> None:
        if isinstance(value, Tensor):
            if not is_dense(value) or value.is_complex() or value.ndim == 0:
                raise misfit(place, value, self.meaning)
        else:
            ListOf(MEASURED).check(place, value)
