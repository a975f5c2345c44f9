"""Detail that a token is too narrow to hold, taken from the reference and moved as the token says.

A token of width ``dim`` stands for ``patch ** 2 * channels`` numbers; if those are more, a linear
head cannot draw a moved head sharply. What it shows is in the reference already: each cell looks
at the reference around it, once per stream, and the token gates what was seen there, every frame.
"""

from torch import Tensor, nn


class ReferenceDetail(nn.Module):
    """``change = put(gate(token) * look(reference))`` for every cell of a token's patch.

    It starts with nothing to add.
    """

    def __init__(self, dim: int, patch: int, channels: int, width: int) -> None:
        super().__init__()
        self.patch, self.width = patch, width
        self.look = nn.Conv2d(channels, width, 3, padding=1, padding_mode="replicate")
        self.gate = nn.Linear(dim, patch**2 * width)
        self.put = nn.Linear(width, channels, bias=False)

    def reset(self) -> None:
        """Draw even gates and looks, and add nothing."""
        nn.init.kaiming_normal_(self.look.weight, nonlinearity="linear")
        nn.init.zeros_(self.look.get_parameter("bias"))
        nn.init.zeros_(self.put.weight)

    def see(self, reference: Tensor) -> Tensor:
        """Look at a reference ``[b, 1, c, h, w]``; returns ``[b, 1, s, patch * patch, width]``."""
        p = self.patch
        seen = self.look(reference[:, 0].to(self.look.weight.dtype))
        b, k, h, w = seen.shape
        cells = seen.view(b, k, h // p, p, w // p, p).permute(0, 2, 4, 3, 5, 1)
        return cells.reshape(b, 1, -1, p * p, k)

    def forward(self, tokens: Tensor, seen: Tensor) -> Tensor:
        """Map ``[b, f, s, dim]`` to changes ``[b, f, s, patch * patch * c]``, channel fastest."""
        gates = self.gate(tokens).unflatten(-1, (-1, self.width))
        return self.put(gates * seen.to(gates.dtype)).flatten(-2)
