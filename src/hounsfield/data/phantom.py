"""A simulated frontal chest radiograph: anatomy as attenuation, before any detector.

Everything is drawn in a square frame, x to the image's right and y down, both in fractions 0..1 of the
side; attenuation is in arbitrary units, 0 for air outside the patient and about 1 for soft tissue.
It looks like a chest and behaves like one (the finding hides among ribs, vessels and benign shadows);
it is not a model of any disease.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

OPACITY_CONTRAST = 0.65
"""Attenuation of the densest opacity; the others fade to nothing, which caps what a model can reach."""
INVISIBLE = 0.12
"""Share of the positives whose opacity nobody can see: what keeps the best model below an AUROC of 1."""

TISSUE_TEXTURE = 0.020
"""Standard deviation of the smooth lung texture that faint opacities drown in."""


@dataclass(frozen=True)
class Anatomy:
    """What stays the same between the images of one patient; lengths are fractions of the side."""

    lung_width: float
    apex_y: float
    base_y: float
    heart_radius: float
    rib_spacing: float
    spine_shift: float
    thickness: float
    breast: float
    hilum: float

    @classmethod
    def draw(cls, rng: np.random.Generator, female: bool, age_years: int) -> Anatomy:
        return cls(
            lung_width=rng.normal(0.335, 0.016) - 0.012 * female,
            apex_y=rng.normal(0.13, 0.012),
            base_y=rng.normal(0.76, 0.022),
            heart_radius=rng.normal(0.125, 0.010) + 0.0003 * (age_years - 50),
            rib_spacing=rng.normal(0.080, 0.004),
            spine_shift=rng.normal(0.0, 0.007),
            thickness=rng.normal(1.0, 0.07),
            breast=rng.uniform(0.04, 0.16) if female else 0.0,
            hilum=rng.uniform(0.05, 0.16),
        )


@dataclass(frozen=True)
class Opacity:
    """One simulated finding; centre and radius in fractions of the square frame, contrast in attenuation."""

    x: float
    y: float
    radius: float
    contrast: float


def render(
    rng: np.random.Generator, anatomy: Anatomy, side_px: int, *, supine: bool, positive: bool
) -> tuple[np.ndarray, list[Opacity]]:
    """Draw one exposure of `anatomy`.

    Returns attenuation, (side_px, side_px) float32, rows by columns, about 0 to 1.6, and the opacities
    in it: none, or one to three when `positive`. `supine` is the AP view: larger heart, higher diaphragm.
    """
    frame = _Frame(side_px)
    heart = _heart(frame, rng, anatomy, supine)
    lungs = _lungs(frame, rng, anatomy, supine) * (1 - heart)
    picture = _torso(frame, anatomy) - 0.62 * lungs + 0.07 * heart
    picture += _mediastinum(frame, rng, anatomy)
    picture += _vessels(frame, rng, anatomy) * lungs
    # Bone shows best against air; under the diaphragm scatter washes it out.
    picture += _bones(frame, rng, anatomy, supine) * (0.5 + 0.5 * lungs)
    picture += TISSUE_TEXTURE * _texture(frame, rng, (0.012, 0.03, 0.07)) * lungs
    picture += _benign_shadows(frame, rng, anatomy, lungs, supine)
    opacities = _place_opacities(frame, rng, lungs) if positive else []
    for opacity in opacities:
        picture += _opacity(frame, rng, opacity) * (0.2 + 0.8 * lungs)
    picture = cv2.GaussianBlur(picture, (0, 0), 0.0022 * side_px)
    return _pose(frame, rng, np.maximum(picture, 0.0), opacities)


class _Frame:
    """The pixel grid: `x` (1, n) and `y` (n, 1) in fractions, and drawing in those units."""

    def __init__(self, side_px: int) -> None:
        self.side_px = side_px
        centres = (np.arange(side_px, dtype=np.float32) + 0.5) / side_px
        self.x, self.y = centres[None, :], centres[:, None]

    def blob(self, x: float, y: float, radius_x: float, radius_y: float, edge: float = 1.0) -> np.ndarray:
        """A bump of height 1; `edge` 1 is a Gaussian, larger is flatter with a sharper border."""
        squared = ((self.x - x) / radius_x) ** 2 + ((self.y - y) / radius_y) ** 2
        return np.exp(-(squared**edge), dtype=np.float32)

    def lines(self, curves: list[tuple[np.ndarray, float]], blur: float) -> np.ndarray:
        """Curves of points (n, 2) in fractions, each with its width, as float32 0..1, softened by `blur`."""
        canvas = np.zeros((self.side_px, self.side_px), np.uint8)
        for points, width in curves:
            fixed = np.round(points * self.side_px * 16).astype(np.int32)[:, None, :]
            thickness = max(1, round(width * self.side_px))
            cv2.polylines(canvas, [fixed], False, 255, thickness, cv2.LINE_AA, shift=4)
        soft = cv2.GaussianBlur(canvas, (0, 0), max(0.5, blur * self.side_px))
        return soft.astype(np.float32) / 255


def _ramp(distance: np.ndarray, softness: float) -> np.ndarray:
    """0 outside, 1 inside, a straight border `softness` wide."""
    return np.clip(distance / softness + 0.5, 0, 1)


def _torso(frame: _Frame, anatomy: Anatomy) -> np.ndarray:
    """Soft tissue: a trunk that narrows to the neck, thicker towards the belly."""
    y = frame.y
    half_width = 0.47 - 0.33 * np.clip((0.12 - y) / 0.12, 0, 1) ** 0.7
    trunk = _ramp(half_width - np.abs(frame.x - 0.5), 0.03)
    return (trunk * anatomy.thickness * (0.86 + 0.22 * y)).astype(np.float32)


def _lungs(frame: _Frame, rng: np.random.Generator, anatomy: Anatomy, supine: bool) -> np.ndarray:
    """Air in the lungs, 0..1: two fields between mediastinum, chest wall and the domes of the diaphragm."""
    base_y = anatomy.base_y - 0.05 * supine + rng.normal(0, 0.012)
    height = np.clip((frame.y - anatomy.apex_y) / (base_y - anatomy.apex_y), 0, 1.3)
    outer = anatomy.lung_width * np.sqrt(np.clip(1 - (1 - np.clip(height, 0, 1)) ** 2.6, 0, 1))
    inner = 0.052 + 0.022 * np.sin(np.pi * np.clip(height, 0, 1)) + 0.02 * (1 - height)
    distance = np.abs(frame.x - 0.5)
    field = _ramp(outer - distance, 0.018) * _ramp(distance - inner, 0.03)
    # The right dome (image left) stands higher, because of the liver.
    right = frame.x < 0.5
    dome = base_y + np.where(right, -0.012, 0.014)
    drop = 0.075 * (np.abs(distance - 0.17) / 0.16) ** 2 * np.where(distance > 0.17, 1.0, 0.25)
    return cv2.GaussianBlur(
        (field * _ramp(dome + drop - frame.y, 0.016)).astype(np.float32), (0, 0), 0.004 * frame.side_px
    )


def _heart(frame: _Frame, rng: np.random.Generator, anatomy: Anatomy, supine: bool) -> np.ndarray:
    """How much of the lungs' air heart and great vessels displace, 0..1, mostly to the image's right."""
    size = anatomy.heart_radius * (1.14 if supine else 1.0) * rng.normal(1, 0.02)
    y = anatomy.base_y - 0.09 - 0.05 * supine
    left = frame.blob(0.555, y, size * 1.18, size * 1.05, 3)
    right = frame.blob(0.475, y - 0.03, 0.062, 0.11, 3)
    aorta = frame.blob(0.558, 0.325, 0.032, 0.042, 3)
    return np.maximum(np.maximum(left, right), aorta)


def _mediastinum(frame: _Frame, rng: np.random.Generator, anatomy: Anatomy) -> np.ndarray:
    """Hila, spine and trachea."""
    picture = np.zeros((frame.side_px, frame.side_px), np.float32)
    for x, y in ((0.405, 0.475), (0.60, 0.455)):
        picture += anatomy.hilum * frame.blob(x + rng.normal(0, 0.006), y, 0.034, 0.062)
    spine_x = 0.5 + anatomy.spine_shift * np.sin(3 * frame.y)
    vertebrae = 0.85 + 0.15 * np.sign(np.sin(2 * np.pi * frame.y / 0.062))
    picture += 0.17 * np.exp(-(((frame.x - spine_x) / 0.036) ** 4)) * vertebrae
    trachea = np.exp(-(((frame.x - 0.497) / 0.017) ** 4)) * _ramp(0.36 - frame.y, 0.03)
    return (picture - 0.17 * trachea).astype(np.float32)


def _bones(frame: _Frame, rng: np.random.Generator, anatomy: Anatomy, supine: bool) -> np.ndarray:
    """Posterior and anterior ribs, clavicles, and in the AP view the shoulder blades over the lungs."""
    posterior, anterior, clavicles = [], [], []
    t = np.linspace(0, 1, 24)
    tilt = rng.normal(0, 0.008)
    for side in (-1, 1):
        for rib in range(9):
            top = anatomy.apex_y + 0.012 + rib * anatomy.rib_spacing + side * tilt
            reach = anatomy.lung_width * min(1.0, 0.52 + 0.16 * rib) + 0.012
            x = 0.5 + side * (0.035 + (reach - 0.035) * np.sin(t * np.pi / 2))
            sag = 0.055 + 0.012 * rib
            posterior.append((np.stack([x, top - 0.03 * np.sin(np.pi * t) + sag * t**2.2], 1), 0.019))
            low = top + sag
            back = 0.5 + side * (reach - (reach - 0.12) * t**1.3)
            if 1 <= rib <= 6:
                anterior.append((np.stack([back, low + 0.135 * t**0.9], 1), 0.016))
        x = 0.5 + side * (0.025 + 0.33 * t)
        y = anatomy.apex_y + 0.062 - 0.055 * np.sin(t * np.pi * 0.8) + rng.normal(0, 0.004)
        clavicles.append((np.stack([x, y], 1), 0.024))
    picture = 0.115 * frame.lines(posterior, 0.0032) + 0.055 * frame.lines(anterior, 0.0042)
    picture += 0.15 * frame.lines(clavicles, 0.004)
    if supine:
        for side in (-1, 1):
            x = 0.5 + side * (anatomy.lung_width * 0.98 + rng.normal(0, 0.012))
            picture += 0.10 * frame.blob(x, 0.30, 0.05, 0.15, 2.5)
    return picture


def _vessels(frame: _Frame, rng: np.random.Generator, anatomy: Anatomy) -> np.ndarray:
    """Branching lines from each hilum, thinner outwards, some with a round end-on shadow."""
    curves, picture = [], 0.0
    for x, y in ((0.41, 0.475), (0.595, 0.455)):
        side = -1 if x < 0.5 else 1
        for _ in range(15):
            angle = rng.uniform(-1.35, 1.35)
            length = rng.uniform(0.08, 0.24)
            t = np.linspace(0, 1, 12)[:, None]
            ahead = np.array([side * np.cos(angle), np.sin(angle) * 1.15])
            bend = rng.normal(0, 0.03) * np.array([-ahead[1], ahead[0]])
            points = np.array([x, y]) + ahead * length * t + bend * np.sin(np.pi * t)
            curves.append((points[:7], rng.uniform(0.007, 0.012)))
            curves.append((points[6:], rng.uniform(0.003, 0.006)))
            if rng.random() < 0.2:
                radius = rng.uniform(0.006, 0.011)
                picture = picture + rng.uniform(0.08, 0.16) * frame.blob(*points[8], radius, radius)
    return 0.15 * frame.lines(curves, 0.003) + picture


def _texture(frame: _Frame, rng: np.random.Generator, scales: tuple[float, ...]) -> np.ndarray:
    """Smooth noise of mean 0 and standard deviation 1, the sum of one layer for each of `scales`."""
    total = np.zeros((frame.side_px, frame.side_px), np.float32)
    for scale in scales:
        # A coarse grid blown up is the same smooth noise at a fraction of the price of a wide blur.
        cells = max(4, round(0.7 / scale))
        coarse = rng.standard_normal((cells, cells), dtype=np.float32)
        total += cv2.resize(coarse, (frame.side_px, frame.side_px), interpolation=cv2.INTER_CUBIC)
    return (total - total.mean()) / total.std()


def _benign_shadows(
    frame: _Frame, rng: np.random.Generator, anatomy: Anatomy, lungs: np.ndarray, supine: bool
) -> np.ndarray:
    """What a reader must not take for the finding: breasts, nipples, granulomas, electrodes, a pacemaker."""
    picture = np.zeros_like(lungs)
    if anatomy.breast:
        for x in (0.29, 0.71):
            picture += anatomy.breast * frame.blob(x, 0.68, 0.15, 0.13, 1.8)
    if rng.random() < 0.25:
        y = rng.uniform(0.60, 0.68)
        for x in (0.28, 0.72):
            picture += rng.uniform(0.05, 0.12) * frame.blob(x + rng.normal(0, 0.01), y, 0.013, 0.013, 2)
    if rng.random() < 0.2:
        x, y = _inside(frame, rng, lungs)
        picture += rng.uniform(0.15, 0.35) * frame.blob(x, y, 0.006, 0.006, 2)
    if rng.random() < (0.55 if supine else 0.08):
        for _ in range(rng.integers(1, 4)):
            x, y = rng.uniform(0.2, 0.8), rng.uniform(0.25, 0.7)
            picture += 0.22 * frame.blob(x, y, 0.016, 0.016, 4)
            t = np.linspace(0, 1, 12)
            wire = np.stack([x + rng.normal(0, 0.12) * t, y + (1.02 - y) * t], 1)
            picture += 0.16 * frame.lines([(wire, 0.004)], 0.001)
    if rng.random() < 0.05:
        picture += 0.55 * frame.blob(0.76, 0.30, 0.05, 0.042, 5)
        t = np.linspace(0, 1, 20)
        lead = np.stack([0.74 - 0.19 * t, 0.31 + 0.34 * t**2 - 0.1 * np.sin(np.pi * t)], 1)
        picture += 0.30 * frame.lines([(lead, 0.005)], 0.001)
    return picture


def _inside(frame: _Frame, rng: np.random.Generator, lungs: np.ndarray) -> tuple[float, float]:
    """A point well within a lung field, away from the outermost apex."""
    for _ in range(200):
        x, y = rng.uniform(0.17, 0.83), rng.uniform(0.2, 0.74)
        if lungs[int(y * frame.side_px), int(x * frame.side_px)] > 0.9:
            return float(x), float(y)
    return 0.3, 0.45


def _place_opacities(frame: _Frame, rng: np.random.Generator, lungs: np.ndarray) -> list[Opacity]:
    """One opacity, at times two or three; size and contrast run continuously down to the invisible."""
    count = rng.choice([1, 2, 3], p=[0.65, 0.25, 0.1])
    visibility = max(0.0, rng.uniform(-INVISIBLE / (1 - INVISIBLE), 1))
    found = []
    for _ in range(count):
        x, y = _inside(frame, rng, lungs)
        radius = 0.07 + 0.10 * rng.uniform(0, 1)
        contrast = OPACITY_CONTRAST * visibility**0.75 * rng.uniform(0.8, 1.0)
        found.append(Opacity(x, y, float(radius), float(contrast)))
    return found


def _opacity(frame: _Frame, rng: np.random.Generator, opacity: Opacity) -> np.ndarray:
    stretch = rng.uniform(0.8, 1.25)
    bump = frame.blob(opacity.x, opacity.y, opacity.radius * stretch, opacity.radius / stretch, 1.3)
    patchy = np.clip(1 + 0.2 * _texture(frame, rng, (0.015, 0.03)), 0.2, 1.6)
    return opacity.contrast * bump * patchy


def _pose(
    frame: _Frame, rng: np.random.Generator, picture: np.ndarray, opacities: list[Opacity]
) -> tuple[np.ndarray, list[Opacity]]:
    """Turn, move and scale a little, as no two patients stand alike, and carry the opacities along."""
    degrees, scale = rng.normal(0, 1.5), rng.normal(1.0, 0.03)
    matrix = cv2.getRotationMatrix2D((frame.side_px / 2, frame.side_px / 2), degrees, scale)
    matrix[:, 2] += rng.normal(0, 0.012, 2) * frame.side_px
    turned = cv2.warpAffine(picture, matrix, (frame.side_px, frame.side_px), borderMode=cv2.BORDER_REPLICATE)
    moved = []
    for opacity in opacities:
        x, y = matrix @ np.array([opacity.x * frame.side_px, opacity.y * frame.side_px, 1.0])
        moved.append(Opacity(x / frame.side_px, y / frame.side_px, opacity.radius * scale, opacity.contrast))
    return turned, moved
