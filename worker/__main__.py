"""``python -m worker``: start the worker."""

import sys
import time

if __name__ == "__main__":
    started = time.perf_counter()
    from worker.main import main  # takes seconds, which are a part of the cold start

    sys.exit(main(started))
