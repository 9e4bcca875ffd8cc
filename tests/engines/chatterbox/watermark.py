"""Says of each file of samples how sure the watermark's reader is, from 0 to 1; run in the engine's environment."""

import sys

import numpy as np
import perth

reader = perth.PerthImplicitWatermarker()
for path in sys.argv[1:]:
    confidence = float(np.mean(reader.get_watermark(np.load(path), sample_rate=24_000)))
    sys.stdout.write(f"confidence {confidence}\n")
