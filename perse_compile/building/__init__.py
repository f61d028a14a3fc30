"""From plans and kernels to the files of an artifact: object code, generated C, link, backbone.bin, verification."""
