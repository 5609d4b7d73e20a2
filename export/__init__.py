"""Turns a checkpoint into a bundle: one small proven ONNX graph per missing pattern."""

from ifmmin.export.specialise import SpecialisedNetwork, specialise
from ifmmin.export.verify import Comparison, compare
from ifmmin.export.writer import export_bundle

__all__ = ["Comparison", "SpecialisedNetwork", "compare", "export_bundle", "specialise"]
