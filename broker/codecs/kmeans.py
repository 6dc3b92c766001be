"""K-means, quick enough to run on every batch of a small device.

Letters: R groups, each clustered on its own; N points per group; s dimensions; L centroids per group.

Lloyd's algorithm with four savings:

- Most steps see a sample of the points. Means of n points leave an error that is larger by a factor of about
  1 + 1/n, so few centroids need no more than that; many centroids take the last steps with all points.
- A step goes beyond the cluster's mean (over-relaxation): as the clusters around it move, a mean goes on
  moving in much the same direction, so fewer steps are needed. The last step stops at the mean.
- Against local optima, a few centroids start on each of several parts of the sample, and the best start goes
  on; of many centroids, some that are missed least move to where the error is largest.
- All is matrix products and straight passes over memory. With the points as columns, `c.x - |c|^2 / 2` scores
  all centroids against all points; the largest entry of a column is the nearest centroid; comparing the
  column with it gives the members of clusters as a 0/1 matrix, whose product with the points is their sums.
"""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

FEW = 8  # centroids, for which a sample is enough
SAMPLE_POINTS = 1024  # at least,
SAMPLE_POINTS_PER_CENTROID_OF_FEW = 256
SAMPLE_POINTS_PER_CENTROID_OF_MANY = 32
PARTS = 4  # of the sample, for the starts of few centroids
STEPS_OF_PARTS = 2
STEPS_OF_FEW = 2
STEPS_OF_MANY = 5
MOVING_STEPS = (2, 4)  # of these
CENTROIDS_PER_MOVE = 8
STEPS_WITH_ALL_POINTS = 3
OVERSHOOT = np.float32(1.9)
SEEDING_POINTS = 64  # at least,
SEEDING_POINTS_PER_CENTROID = 8
SEEDING_ROUNDS = 8  # about, for many centroids; one by one for few
ROUNDING = np.float32(2**-24)  # squared relative distance below which float16 cannot tell points apart


class Points:
    """The points of all groups.

    Attributes:
        rows: Shape (R, N, s), C-contiguous, of magnitudes whose squares neither under- nor overflow.
        columns: The same as columns, with a row of ones below: shape (R, s + 1, N). None until it pays.
    """

    def __init__(self, rows: Floats) -> None:
        self.rows = rows
        self.columns: Floats | None = None

    def __len__(self) -> int:
        return int(self.rows.shape[1])

    def add_columns(self) -> None:
        """Fills `columns`, in pieces that fit into the innermost cache."""
        groups, total, size = self.rows.shape
        columns = np.empty((groups, size + 1, total), np.float32)
        columns[:, size] = 1
        piece = max(1, 2**13 // size)
        for start in range(0, total, piece):
            part = self.rows[:, start : start + piece]
            columns[:, :size, start : start + piece] = part.transpose(0, 2, 1)
        self.columns = columns

    def sample(self, count: int, rng: np.random.Generator) -> "Points":
        """Draws points, the same in all groups; shuffles them when there are not more than `count`."""
        total = len(self)
        picks = rng.integers(total, size=count) if count < total else rng.permutation(total)
        return Points(np.take(self.rows, picks, axis=1))

    def score(self, centroids: Floats, out: Floats) -> None:
        """Writes `c.x - |c|^2 / 2` for centroids of shape (R, L, s) into `out`, shape (R, L, N)."""
        half_squares = _half_squares(centroids)[:, :, None]
        if self.columns is None:
            products = np.matmul(self.rows, centroids.transpose(0, 2, 1))
            np.subtract(products.transpose(0, 2, 1), half_squares, out=out)
        else:
            np.matmul(np.concatenate((centroids, -half_squares), axis=2), self.columns, out=out)


def cluster(points: Points, count: int, rng: np.random.Generator) -> Floats:
    """Finds `count` centroids in each group; with at most `count` different points, those are the centroids.

    Args:
        points: N points in each of R groups.
        count: L, 1 to 256.
        rng: Draws the sample and the first centroids.

    Returns:
        Shape (R, L, s).
    """
    if len(points) <= count:
        return np.pad(points.rows, ((0, 0), (0, count - len(points)), (0, 0)))
    seen, centroids, members = (_cluster_few if count <= FEW else _cluster_many)(points, count, rng)
    doubled = members.sum() > members.shape[0] * len(seen)  # equal centroids count the same members
    return _use_all(points, centroids) if doubled or not members.all() else centroids


def _cluster_few(points: Points, count: int, rng: np.random.Generator) -> tuple[Points, Floats, Floats]:
    """Returns the points of the last step, the centroids and the number of members of each."""
    wanted = max(SAMPLE_POINTS, count * SAMPLE_POINTS_PER_CENTROID_OF_FEW)
    sample = points.sample(wanted, rng)
    sample.add_columns()
    groups, total, size = sample.rows.shape
    if total < wanted:  # so few that each start can see all of them
        parts = np.repeat(sample.rows, PARTS, axis=0)
    else:
        parts = sample.rows.reshape(groups * PARTS, total // PARTS, size)
    starts = _seed(parts, count, rng)
    starts, _ = _lloyd(Points(parts), starts, STEPS_OF_PARTS)
    scores = np.empty((groups, PARTS * count, total), np.float32)
    sample.score(starts.reshape(groups, PARTS * count, size), scores)
    best = scores.reshape(groups, PARTS, count, total).max(axis=2).sum(axis=2).argmax(axis=1)
    start = starts.reshape(groups, PARTS, count, size)[np.arange(groups), best]
    return sample, *_lloyd(sample, start, STEPS_OF_FEW)


def _cluster_many(points: Points, count: int, rng: np.random.Generator) -> tuple[Points, Floats, Floats]:
    """Returns the same as `_cluster_few`."""
    sample = points.sample(max(SAMPLE_POINTS, count * SAMPLE_POINTS_PER_CENTROID_OF_MANY), rng)
    sample.add_columns()
    centroids, _ = _lloyd(sample, _seed(sample.rows, count, rng), STEPS_OF_MANY, MOVING_STEPS)
    points.add_columns()
    return points, *_lloyd(points, centroids, STEPS_WITH_ALL_POINTS)


def nearest(points: Points, centroids: Floats) -> npt.NDArray[np.uint8]:
    """Returns the number of the nearest centroid for each point, shape (R, N).

    Args:
        points: N points in each of R groups.
        centroids: Shape (R, L, s).
    """
    scores = np.empty((*centroids.shape[:2], len(points)), np.float32)
    points.score(centroids, scores)
    is_best = scores == scores.max(axis=1, keepdims=True)
    numbers = np.arange(centroids.shape[1], dtype=np.uint8)[:, None]
    codes: npt.NDArray[np.uint8] = np.multiply(is_best.view(np.uint8), numbers).max(axis=1)
    return codes


def _lloyd(
    points: Points, centroids: Floats, steps: int, moving_steps: tuple[int, ...] = ()
) -> tuple[Floats, Floats]:
    """Takes Lloyd's steps; returns centroids (R, L, s) and the last number of members of each (R, L)."""
    count = centroids.shape[1]
    scores = np.empty((len(centroids), count, len(points)), np.float32)
    is_best = np.empty(scores.shape, np.bool_)
    ones = np.ones((len(points), 1), np.float32)
    members = ones
    for step in range(1, steps + 1):
        points.score(centroids, scores)
        best = scores.max(axis=1, keepdims=True)
        np.equal(scores, best, out=is_best)
        moving = step in moving_steps
        if moving:
            np.copyto(scores, -np.inf, where=is_best)
            second = scores.max(axis=1, keepdims=True)
        np.copyto(scores, is_best)
        members = np.matmul(scores, ones)
        means = np.matmul(scores, points.rows)
        means /= np.maximum(members, 1)
        means -= centroids
        means *= (members > 0) * (OVERSHOOT if step < steps else np.float32(1))
        means += centroids
        if moving:
            _move(points.rows, centroids, means, scores, best, second)
        centroids = means
    return centroids, members[:, :, 0]


def _move(points: Floats, old: Floats, new: Floats, is_member: Floats, best: Floats, second: Floats) -> None:
    """Moves the centroids in `new` that are missed least into the clusters with the largest errors.

    Args:
        points: Shape (R, N, s).
        old: Centroids to which the members belong, shape (R, L, s).
        new: Centroids of the next step, of which some are overwritten.
        is_member: 0/1, shape (R, L, N).
        best: Score of the nearest centroid, shape (R, 1, N).
        second: Score of the second nearest, of the same shape.
    """
    group = np.arange(len(points))[:, None]
    moved = old.shape[1] // CENTROIDS_PER_MOVE
    gaps = np.maximum(_half_squares(points)[:, None] - best, 0)
    errors = np.matmul(is_member, gaps.transpose(0, 2, 1))[:, :, 0]
    losses = np.matmul(is_member, (best - second).transpose(0, 2, 1))[
        :, :, 0
    ]  # if the centroid were not there
    to = np.argsort(-errors, axis=1)[:, :moved]
    idle = np.argsort(losses, axis=1)[:, :moved]
    farthest = (is_member[group, to] * gaps).argmax(axis=2)
    halfway = (points[group, farthest] + old[group, to]) * np.float32(0.5)
    pays = (errors[group, to] > 2 * losses[group, idle]) & (idle != to)
    new[group, idle] = np.where(pays[:, :, None], halfway, new[group, idle])


def _seed(points: Floats, count: int, rng: np.random.Generator) -> Floats:
    """Draws points as first centroids, likely far from those drawn before (k-means++).

    Args:
        points: Shape (R, N, s).
        count: Number of centroids, below N.
        rng: For the draws.

    Returns:
        Shape (R, count, s).
    """
    points = points[:, : max(SEEDING_POINTS, count * SEEDING_POINTS_PER_CENTROID)]
    group = np.arange(len(points))[:, None]
    half_squares = _half_squares(points)[:, :, None]
    ones = np.ones_like(half_squares)
    columns = np.concatenate((points, ones, half_squares), axis=2).transpose(0, 2, 1)
    rows = np.concatenate((-points, half_squares, ones), axis=2)  # rows @ columns: half the squared distances
    batch = max(1, count // SEEDING_ROUNDS)
    chosen = rng.integers(points.shape[1], size=(len(points), 1))
    gaps = np.maximum(np.matmul(rows[group, chosen], columns)[:, 0], 0)
    while chosen.shape[1] < count:
        waits = rng.standard_exponential(gaps.shape)
        chances = gaps / waits
        if batch == 1:
            drawn = chances.argmax(axis=1)[:, None]
        else:
            drawn = np.argpartition(chances, -batch, axis=1)[:, -batch:]
        chosen = np.concatenate((chosen, drawn), axis=1)
        if chosen.shape[1] < count:
            offers = np.matmul(rows[group, drawn], columns).min(axis=1)
            gaps = np.maximum(np.minimum(gaps, offers), 0)
    return points[group, chosen[:, :count]]


def _use_all(points: Points, centroids: Floats) -> Floats:
    """Puts centroids that are nearest to no point where points are worst off, until either has an end."""
    count = centroids.shape[1]
    limits = ROUNDING * _half_squares(points.rows)
    for _ in range(count):
        codes = nearest(points, centroids).astype(np.intp)
        used = np.zeros(centroids.shape[:2], np.bool_)
        np.put_along_axis(used, codes, values=True, axis=1)
        gaps = _half_squares(points.rows - np.take_along_axis(centroids, codes[:, :, None], axis=1))
        spare = ~used & (gaps > limits).any(axis=1, keepdims=True)
        if not spare.any():
            break
        worst = np.argsort(-gaps, axis=1)[:, :count]
        chosen = np.take_along_axis(worst, np.maximum(np.cumsum(spare, axis=1) - 1, 0), axis=1)
        there = np.take_along_axis(points.rows, chosen[:, :, None], axis=1)
        centroids, _ = _lloyd(points, np.where(spare[:, :, None], there, centroids), steps=1)
    return centroids


def _half_squares(vectors: Floats) -> Floats:
    squares: Floats = np.einsum("rns,rns->rn", vectors, vectors)
    return squares * np.float32(0.5)
