"""Where the labels of a chart's points go, so that no label covers another one or a point.

A box is (x0, y0, x1, y1), y upwards, in any unit of length.
"""

import os

import numpy as np

SEPARATORS = "-_.:/ "
"""A name is only cut behind one of them."""

LONGEST = 36
"""Characters of a label that fit in a chart; longer ones lose their middle."""


LINE_STEPS = 24
"""Boxes that stand for the line from a point to its label."""


def short_names(labels: list[str]) -> list[str]:
    """Labels without the words that all of them start with, and without the middle of long ones."""
    common = os.path.commonprefix(labels) if len(labels) > 1 else ""
    start = max(common.rfind(mark) for mark in SEPARATORS) + 1
    return [_middle_cut(label[start:] or label) for label in labels]


def _middle_cut(label: str) -> str:
    half = LONGEST // 2
    return label if len(label) <= LONGEST else f"{label[: half - 1]}…{label[-half:]}"


def place(
    points: np.ndarray, sizes: np.ndarray, area: np.ndarray, avoid: np.ndarray, gap: float
) -> np.ndarray | None:
    """Boxes (n, 4) for labels of `sizes` (n, 2), each as near to its point (n, 2) as there is room.

    Boxes lie inside `area` (4,), where that is as wide as they are, and keep off each other and
    `gap` around every point. Where it does not take them far, they also keep off the boxes `avoid`
    (m, 4), lines say, and off the lines from labels to points, and are nearest to their own point.
    None when a label finds no room: draw on a larger area then.
    """
    taken = [np.array([x - gap, y - gap, x + gap, y + gap]) for x, y in points]
    soft = list(avoid)
    placed: list[np.ndarray] = []
    for point, size in zip(points, sizes, strict=True):
        boxes = candidates(point, size, area, gap)
        boxes = boxes[~overlap(boxes, np.array(taken))]
        if not len(boxes):
            return None
        faults = 2.0 * overlap(boxes, np.array(soft).reshape(-1, 4))
        faults += crosses(point, boxes, np.array(placed).reshape(-1, 4))
        faults += ambiguous(point, boxes, points)
        cost = distances(point, boxes) + size[1] * faults
        best = boxes[cost.argmin()]
        placed.append(best)
        taken.append(best)
        soft += list(leader_boxes(point, best[None])[0])
    return np.array(placed).reshape(-1, 4)


def candidates(point: np.ndarray, size: np.ndarray, area: np.ndarray, gap: float) -> np.ndarray:
    """Boxes (c, 4) right of a point, left of it and centred on it, at all heights of the area."""
    (x, y), (width, height) = point, size
    steps = int(np.ceil(2 * (area[3] - area[1]) / height))
    # nearest first: of equally near boxes the first is taken
    rise = np.array(sorted(range(-steps, steps + 1), key=abs)) * height / 2
    aside = gap + height * np.arange(0, 12, 2)
    lefts = np.concatenate([x + aside, x - aside - width, [x - width / 2]])
    lefts = np.clip(lefts, area[0], max(area[0], area[2] - width))
    bottoms = np.concatenate([y - height / 2 + rise, [y + gap, y - gap - height]])
    bottoms = bottoms[(bottoms >= area[1]) & (bottoms + height <= area[3])]
    left, bottom = (grid.ravel() for grid in np.meshgrid(lefts, bottoms))
    return np.stack([left, bottom, left + width, bottom + height], axis=1)


def overlap(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Whether each of boxes (c, 4) shares some area with any of others (m, 4)."""
    a, b = boxes[:, None], others[None]
    apart = (
        (a[..., 0] >= b[..., 2])
        | (b[..., 0] >= a[..., 2])
        | (a[..., 1] >= b[..., 3])
        | (b[..., 1] >= a[..., 3])
    )  # (c, m)
    return np.asarray(~apart.all(axis=1))


def ambiguous(point: np.ndarray, boxes: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Whether another of points (n, 2) is as near to each of boxes (c, 4) as its own: (c,)."""
    others = points[(points != point).any(axis=1)]
    near = [distances(other, boxes) for other in others]
    return np.min(near, axis=0, initial=np.inf) <= distances(point, boxes)


def crosses(point: np.ndarray, boxes: np.ndarray, placed: np.ndarray) -> np.ndarray:
    """Whether the line from a point to each of boxes (c, 4) runs through one of placed (m, 4)."""
    lines = leader_boxes(point, boxes)  # (c, s, 4)
    hit = overlap(lines.reshape(-1, 4), placed).reshape(lines.shape[:2])
    return np.asarray(hit.any(axis=1))


def leader_boxes(point: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Small boxes along the lines from a point to boxes (c, 4): (c, LINE_STEPS, 4)."""
    share = np.linspace(0, 1, LINE_STEPS)[:, None]
    at = point + share * (nearest(point, boxes) - point)[:, None]  # (c, s, 2)
    return np.concatenate([at - 0.5, at + 0.5], axis=2)


def nearest(point: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """The point of each of boxes (c, 4) that is nearest to a point: (c, 2)."""
    return np.clip(point, boxes[:, :2], boxes[:, 2:])


def distances(point: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """From a point to each of boxes (c, 4): (c,)."""
    return np.hypot(*(nearest(point, boxes) - point).T)
