"""A stand-in for torchvision where it is not installed: the few transforms that diffusers' example scripts use.

torchvision's wheel on PyPI does not import beside a CPU build of torch. Our own code, over PIL and torch.
"""
