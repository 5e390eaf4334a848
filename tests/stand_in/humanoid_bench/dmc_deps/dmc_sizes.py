array_sizes = {
    "mjdata": {"qpos": ("nq",), "qLDiagSqrtInv": ("nv",)},  # the second is gone since MuJoCo 3.2
    "mjmodel": {"body_pos": ("nbody", 3), "tex_rgb": ("ntexdata",)},
}
