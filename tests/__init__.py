"""Every process of the tests has one thread, as several run side by side, and sums in another order differ in the last bit."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported; processes that tests start inherit it
