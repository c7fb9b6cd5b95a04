"""Batches computed without their padding against the same batches computed whole, loss and every gradient."""

import contextlib

import pytest
import torch
from torch import nn

from vaswani_tx import (
    VaswaniConfig,
    VaswaniDecoderConfig,
    VaswaniEncoderConfig,
    VaswaniForCausalLM,
    VaswaniForConditionalGeneration,
    VaswaniForMaskedLM,
    VaswaniForSequenceClassification,
    padding_vaswani,
)
from vaswani_tx.padding_vaswani import TokenRows, can_pack, padding_free

