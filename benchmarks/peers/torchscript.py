"""The network as frozen TorchScript: traced, weights made constants, operators fused."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor
from torch.jit._trace import TracerWarning

from ifmmin.benchmarks.peers.eager import Eager, Tensors
from ifmmin.benchmarks.peers.whole import example_inputs
from ifmmin.train.network import EmotionNetwork


class TorchScript(Eager):
    """`torch.jit.trace`, `freeze` and `optimize_for_inference`, as PyTorch advises for servers.

    Its executor specialises itself during the first calls of new lengths, so warm it up.
    """

    def __init__(self, network: EmotionNetwork, threads: int = 1) -> None:
        super().__init__(network, threads)
        torch.set_num_threads(threads)
        with warnings.catch_warnings(), torch.inference_mode():
            # PyTorch wants users elsewhere; this is what many deploy all the same.
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            # nn.LSTM asks for sizes in Python; what tracing froze, the comparison would find.
            warnings.filterwarnings("ignore", category=TracerWarning)
            example = example_inputs(network)
            traced = torch.jit.trace(self._module, example, check_trace=False)  # type: ignore[no-untyped-call]
            self._script = torch.jit.optimize_for_inference(torch.jit.freeze(traced))

    def _answer(self, inputs: Tensors) -> Tensor:
        answer: Tensor = self._script(*inputs)
        return answer
