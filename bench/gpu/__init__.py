"""``make gpu``: is the Triton backend right on this GPU, and how fast beside cuDNN?

It wants nothing but torch with CUDA, Triton and numpy; matplotlib, if there, draws. With
``--dry-run`` every path is taken on a CPU, by Triton's interpreter and with torch's CPU layers in
cuDNN's place, so that the first run on a GPU is not the first run at all.
"""
