#!/bin/sh
# Takes out of an environment what a server never opens: trim.sh /opt/venv
set -eu
cd "$1"/lib/python3*/site-packages
# For compiling C++ against torch, and torch's own tests.
rm -rf torch/include torch/test torch/share
if [ -d torch/bin ]; then
  find torch/bin -type f ! -name torch_shm_manager -delete
fi
# Static libraries, a second compiler beside libnvrtc.so, the solver for several devices, code for kernels that send over
# NVSHMEM, and what profilers load: torch is linked to none of it.
find . -name '*.a' -delete
rm -f nvidia/*/lib/libnvrtc*.alt.so* nvidia/*/lib/libcusolverMg.so* nvidia/nvshmem/lib/*.bc nvidia/*/lib/libnvperf_*.so \
  triton/instrumentation/*.so triton/backends/nvidia/lib/cupti*/libnvperf_*.so
# Tests of those whose tests are large.
find numpy sympy networkx mpmath -type d -name tests -prune -exec rm -rf {} +
# Two thirds of Triton's compiler are its debug information.
if command -v strip > /dev/null && [ -d triton ]; then
  strip --strip-debug triton/_C/libtriton.so
fi
