"""Training data: folders of photos decoded once, numbered samples, degradations.

- decode.py: a folder → pictures, in memory or mapped from a cache
- crops.py: pictures → sample i: crop, scale, LR, the points to learn
- panorama.py: crops of 360° images, made of photos
- degradations.py, jpeg.py: blur, noise, resizing, JPEG as pure functions
"""

from scalewise.data.crops import AnyScaleCrops, FixedScaleCrops, Numbered, Samples, bicubic_8bit
from scalewise.data.decode import SUFFIXES, decode_folder, open_pictures
from scalewise.data.panorama import PanoramaCrops

__all__ = [
    "SUFFIXES",
    "AnyScaleCrops",
    "FixedScaleCrops",
    "Numbered",
    "PanoramaCrops",
    "Samples",
    "bicubic_8bit",
    "decode_folder",
    "open_pictures",
]
