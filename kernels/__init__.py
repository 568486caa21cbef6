"""Triton kernels, shipped inside the package as ``fastrnn.kernels``.

They are torch's and Python's no more than C++ is: tiles, pointers and sizes. What is launched,
when and with which blocks is decided in `fastrnn.gpu`.

`cells` holds the mathematics of each cell on tiles; the time loops take a cell as a constexpr:
`step` is one step's pointwise part, `rows` a whole sequence in one program, `grid` a whole
sequence in many.
"""
