"""Click maps: a disk around each click, as a tensor for the network (torch side of `clicks.encode`)."""

from __future__ import annotations

import torch


def disk_maps(points: torch.Tensor, height: int, width: int, radius: int = 5) -> torch.Tensor:
    """Draw the positive and the negative clicks as disks.

    Only the square around each click is looked at, so the cost does not grow with the image.

    Args:
        points: (B, 2N, 3) float32 (row, col, order); rows that are negative in row AND column are unused.
        height: of the maps, pixels.
        width: of the maps, pixels.
        radius: pixels; a pixel belongs to the disk when its squared distance to the click is <= radius ** 2.

    Returns:
        (B, 2, height, width) float32 of 0 and 1: positive map, negative map.
    """
    batch, rows2, _ = points.shape
    row, col = points[..., 0].float(), points[..., 1].float()
    used = ~((row < 0) & (col < 0))
    reach = torch.arange(-radius, radius + 2, device=points.device)
    ys = row.floor().long()[..., None, None] + reach[:, None]  # (B, 2N, K, 1)
    xs = col.floor().long()[..., None, None] + reach[None, :]  # (B, 2N, 1, K)
    dy = ys.float() - row[..., None, None]
    dx = xs.float() - col[..., None, None]
    inside = (dy * dy + dx * dx <= radius * radius) & used[..., None, None]
    inside = inside & (ys >= 0) & (ys < height) & (xs >= 0) & (xs < width)

    channel = torch.arange(batch * 2, device=points.device).view(batch, 2, 1).expand(batch, 2, rows2 // 2)
    channel = channel.reshape(batch, rows2)[..., None, None]
    total = batch * 2 * height * width
    # Pixels that are not drawn go to one spare cell at the end: no data-dependent shapes, so no wait for the device.
    index = torch.where(inside, (channel * height + ys) * width + xs, total)
    maps = torch.zeros(total + 1, device=points.device)
    maps[index.reshape(-1)] = 1.0
    return maps[:-1].view(batch, 2, height, width)
