"""PaTH: positions by what lies between, as products of Householder-like maps."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float
from torch import Tensor, nn

from attnbench import Attention, Register, causal_mask, hide_masked, hookimpl, masked_softmax, prefix_mask
from attnbench.heads import head_width, merge_heads, split_heads
from attnbench.shapes import BKD, BKV, BQD, Mask

CHUNK = 32  # tokens whose maps are multiplied out at once


class PaTH(Attention):
    """Softmax attention whose queries are turned by every token between (PaTH, Yang et al. 2025, arXiv:2505.16381).

    H_t = I - β_t w_t w_tᵀ,   β_t = 2 sigmoid(u · key_t + b),   w_t = Ww key_t, of length 1     head by head
    score(q_i, k_j) = k_jᵀ H_(j+1) ··· H_i q_i / sqrt(D)
    context = Wo [softmax(score) · v of each head]

    In chunks: with W the w of a chunk as rows and T = (I + strictly upper diag(β) W Wᵀ)⁻¹ diag(β), the chunk's maps
    multiply to I - Wᵀ T W, by which the queries of all later chunks are turned at once. Without a causal mask a query
    stands at the last key. A masked key's β is 0.

    The paper's w has a rank-32 projection and a convolution of 3 tokens: the projection is whole here, and a short
    convolution is the host's. Its forget gate (PaTH-FoX) is left out. Projections begin as PyTorch's.

    Args:
        num_heads: H; divides embed_dim.
        embed_dim: E, the width of all heads together and of the context; null takes the query's.

    Raises ValueError when num_heads does not divide embed_dim; and when called with a mask that is neither padding nor
    causal. State: 2 E numbers a token, and w and β.
    """

    masks = "prefix"
    excused = {"permutation": "tokens between turn the query, so that order is the point"}

    def __init__(
        self, query_dim: int, key_dim: int, value_dim: int, *, num_heads: int = 4, embed_dim: int | None = None
    ) -> None:
        super().__init__(query_dim, key_dim, value_dim)
        self.out_dim = query_dim if embed_dim is None else embed_dim
        self.num_heads, self.scale = num_heads, head_width(self.out_dim, num_heads) ** -0.5
        self.q_proj = nn.Linear(query_dim, self.out_dim, bias=False)
        self.k_proj = nn.Linear(key_dim, self.out_dim, bias=False)
        self.v_proj = nn.Linear(value_dim, self.out_dim, bias=False)
        self.w_proj = nn.Linear(key_dim, self.out_dim, bias=False)
        self.beta_proj = nn.Linear(key_dim, num_heads)
        self.out_proj = nn.Linear(self.out_dim, self.out_dim, bias=False)

    def forward(
        self, query: BQD, key: BKD, value: BKV, mask: Mask = None, *, causal: bool = False, need_weights: bool = True
    ) -> tuple[Float[Tensor, "B Q E"], Float[Tensor, "B H Q K"] | None]:
        """Attend."""
        key, value = hide_masked(query, key, value, mask, causal=causal, widths=self.widths)
        padding, causal = prefix_mask(mask, query, key, causal)
        q, k, w = (
            split_heads(project(x), self.num_heads)
            for project, x in ((self.q_proj, query), (self.k_proj, key), (self.w_proj, key))
        )
        beta = 2 * torch.sigmoid(self.beta_proj(key)).mT
        if padding is not None:
            beta = beta.masked_fill(~padding.unsqueeze(1), 0.0)
        wide = torch.promote_types(q.dtype, torch.float32)
        q, k, w, beta = q.to(wide), k.to(wide), F.normalize(w.to(wide), dim=-1, eps=1e-6), beta.to(wide)
        scores = path_scores(self.scale * q, k, w, beta, causal=causal).to(value.dtype)
        allowed = causal_mask(None if padding is None else padding.unsqueeze(1), query, causal)
        weights = masked_softmax(scores, None if allowed is None else allowed.unsqueeze(1))
        v = split_heads(self.v_proj(value), self.num_heads)
        return self.out_proj(merge_heads(weights @ v)), weights if need_weights else None


def path_scores(
    q: Float[Tensor, "B H Q D"],
    k: Float[Tensor, "B H K D"],
    w: Float[Tensor, "B H K D"],
    beta: Float[Tensor, "B H K"],
    *,
    causal: bool,
) -> Float[Tensor, "B H Q K"]:
    """Return k_jᵀ H_(j+1) ··· H_i q_i for each j <= i (causal; other entries mean nothing), or to the last key's place.

    With c_s = β_s w_s · (H_(s+1) ··· H_i q_i), the score is q_i·k_j - Σ_(j<s<=i) c_s w_s·k_j.
    """
    Q, K = q.shape[-2], k.shape[-2]
    count = max(1, -(-K // CHUNK))
    behind = count * CHUNK - K
    k, w = (F.pad(x, (0, 0, 0, behind)).reshape(*q.shape[:2], count, CHUNK, q.shape[-1]) for x in (k, w))
    beta = F.pad(beta, (0, behind)).reshape(*q.shape[:2], count, CHUNK)
    upper = torch.eye(CHUNK, dtype=w.dtype, device=w.device) + (beta.unsqueeze(-1) * (w @ w.mT)).triu(1)
    later = (w @ k.mT).tril(-1)  # [s, j] = w_s · k_j where s > j
    solved = torch.linalg.solve_triangular(upper, beta.unsqueeze(-1) * w, upper=True, unitriangular=True)
    turned = k - later.mT @ solved  # a query at the chunk's end scores it by q·turned, and leaves it as q - (q·w_s) ...
    if not causal:
        columns = []
        for n in range(count - 1, -1, -1):
            columns.append(q @ turned[..., n, :, :].mT)
            q = q - (q @ solved[..., n, :, :].mT) @ w[..., n, :, :]
        return torch.cat(columns[::-1], dim=-1)[..., :K]
    q = F.pad(q, (0, 0, 0, behind)).reshape(*q.shape[:2], count, CHUNK, q.shape[-1])
    asked = (beta.unsqueeze(-1) * (w @ q.mT)).triu()  # [s, i] = β_s w_s · q_i where s <= i
    c = torch.linalg.solve_triangular(upper, asked, upper=True, unitriangular=True)
    blocks = [q @ k.mT - c.mT @ later]  # within a chunk; then chunk n against chunk n - 1, n - 2, ...
    q = q - c.mT @ w
    for step in range(1, count):
        q = q[..., 1:, :, :]
        before = slice(0, count - step)
        blocks.append(q @ turned[..., before, :, :].mT)
        q = q - (q @ solved[..., before, :, :].mT) @ w[..., before, :, :]
    rows = [
        torch.cat([blocks[n - m][..., m, :, :] for m in range(n + 1)], dim=-1) for n in range(count)
    ]  # chunk n against chunks 0 .. n
    rows = [F.pad(row, (0, count * CHUNK - row.shape[-1])) for row in rows]
    return torch.cat(rows, dim=-2)[..., :Q, :K]


@hookimpl
def register_attention(register: Register) -> None:
    """Contribute `path`."""
    register("path", PaTH)
