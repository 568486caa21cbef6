"""Triton kernels, shipped inside the package as ``fastrnn.kernels``; none yet."""
