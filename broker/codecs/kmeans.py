"""K-means, quick enough to run on every batch of a small device.

Letters: R groups, each clustered on its own; N points per group; s dimensions; L centroids per group.

Lloyd's algorithm with four savings:

- Most steps see a sample of the points. Means of n points leave an error that is larger by a factor of about
  1 + 1/n, so steps with all points are needed only where the sample has few for each centroid.
- A step goes beyond the cluster's mean (over-relaxation): as the clusters around it move, a mean goes on
  moving in much the same direction, so fewer steps are needed. The last step stops at the mean.
- A poor local optimum has two centroids where one would do, and one where two are needed. So some of the
  centroids that are missed least move to where the error is largest.
- All is matrix products and straight passes over memory. With the points as columns, `c.x - |c|^2 / 2` scores
  all centroids against all points; the largest entry of a column is the nearest centroid; comparing the
  column with it gives the members of clusters as a 0/1 matrix, whose product with the points is their sums.
"""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

SAMPLE_POINTS = 2048
SAMPLE_VALUES = 2**16  # fewer points if they have many dimensions
ENOUGH_POINTS = 256  # per centroid: then the sample does, else it is only where the steps begin,
START_POINTS = 1024  # with so many points in all,
START_POINTS_PER_CENTROID = 32  # or so many per centroid if that is more
SAMPLE_STEPS = 5
FINAL_STEPS = 3  # with all points, where the sample is not enough
OVERSHOOT = np.float32(1.7)
MOVING_STEPS = (2, 4)
CENTROIDS_PER_MOVE = 8

SEEDING_POINTS = 256
SEEDING_POINTS_PER_CENTROID = 8
SEEDING_TRIALS = 4  # candidates for each centroid, unless moves come later

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

    def add_columns(self) -> Floats:
        """Fills `columns`, in pieces that fit into the innermost cache."""
        groups, total, size = self.rows.shape
        columns = np.empty((groups, size + 1, total), np.float32)
        columns[:, size] = 1
        piece = max(1, 2**13 // size)
        for start in range(0, total, piece):
            part = self.rows[:, start : start + piece]
            columns[:, :size, start : start + piece] = part.transpose(0, 2, 1)
        self.columns = columns
        return columns

    def sample(self, count: int, rng: np.random.Generator) -> "Points":
        """Draws points, with replacement and the same numbers in all groups."""
        if count >= len(self):
            return self
        return Points(np.take(self.rows, rng.integers(len(self), size=count), axis=1))

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
    sample_points = min(SAMPLE_POINTS, SAMPLE_VALUES // points.rows.shape[2])
    enough = count * ENOUGH_POINTS <= sample_points
    if not enough:
        sample_points = max(START_POINTS, count * START_POINTS_PER_CENTROID)
    sample = points.sample(sample_points, rng)
    centroids = _seed(sample.rows, sample.add_columns(), count, rng)
    centroids, members = _lloyd(sample, centroids, SAMPLE_STEPS, MOVING_STEPS)
    if not enough:
        sample = points
        if sample.columns is None:
            sample.add_columns()
        centroids, members = _lloyd(sample, centroids, FINAL_STEPS)
    doubled = members.sum() > members.shape[0] * len(sample)  # equal centroids count the same members
    return _use_all(points, centroids) if doubled or not members.all() else centroids


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
        moving = step in moving_steps and count >= CENTROIDS_PER_MOVE
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


def _seed(points: Floats, columns: Floats, count: int, rng: np.random.Generator) -> Floats:
    """Draws points as first centroids, likely far from those drawn before (greedy k-means++).

    Args:
        points: Shape (R, N, s).
        columns: The same, shape (R, s + 1, N).
        count: Number of centroids, below N.
        rng: For the draws.

    Returns:
        Shape (R, count, s).
    """
    width = min(points.shape[1], max(SEEDING_POINTS, count * SEEDING_POINTS_PER_CENTROID))
    points, columns = points[:, :width], columns[:, :-1, :width]
    trials = SEEDING_TRIALS if count < CENTROIDS_PER_MOVE else 1
    group = np.arange(len(points))
    half_squares = _half_squares(points)
    centroids = np.empty((len(points), count, points.shape[2]), np.float32)
    centroids[:, 0] = points[:, 0]
    gaps = half_squares + half_squares[:, :1] - np.matmul(points[:, :1], columns)[:, 0]
    for place in range(1, count):
        np.maximum(gaps, 0, out=gaps)
        waits = rng.standard_exponential((len(points), trials, width), np.float32)
        drawn = (gaps[:, None] / waits).argmax(axis=2)
        candidates = points[group[:, None], drawn]
        offers = half_squares[group[:, None], drawn][:, :, None] - np.matmul(candidates, columns)
        offers += half_squares[:, None]
        np.minimum(offers, gaps[:, None], out=offers)
        winner = offers.sum(axis=2).argmin(axis=1)
        gaps = offers[group, winner]
        centroids[:, place] = candidates[group, winner]
    return centroids


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
